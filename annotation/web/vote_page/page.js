// What the voter sees and presses. The two sides and the buttons are built from SIDES and CHOICES.

const TOUCH_EVERY_MS = 30_000;
const ROLES = { system: "Instructions", user: "Person", assistant: "Assistant" };
const REASONS = ["correct", "clear", "safe", "style"];
const UNDO = { key: "U", label: "Undo" };

// ---------------------------------------------------------------- what the voter sees

let emptyTimer = 0;

function say(text) {
  part("status").replaceChildren(inert(text));
}

function showPair() {
  clearTimeout(emptyTimer);
  const pair = pairOnScreen();
  part("pair").hidden = !pair;
  setVotable(Boolean(pair) && !drafting);
  // Said only if it lasts: the next pair is usually there within a blink.
  if (!pair) return (emptyTimer = setTimeout(showEmpty, 300, "Fetching the next pair…"));
  heard = true;
  part("empty").replaceChildren();
  showWords();
  // On a phone the vote may have come from far below.
  if (part("pair").getBoundingClientRect().top < 0) part("pair").scrollIntoView();
  return undefined;
}

/** What streams in now, else the first pair of those that this tab holds. */
function pairOnScreen() {
  return drafting ?? tab.open[0];
}

/** The words of the pair on screen, from their beginning. */
function showWords() {
  const pair = pairOnScreen();
  if (!pair) return;
  showPrompt(pair.prompt);
  for (const { side } of SIDES) {
    const pane = part(`answer-${side}`);
    fill(pane, pair[side]);
    pane.scrollTop = 0;
  }
}

function showPrompt(messages) {
  const single = messages.length === 1;
  const turns = messages.map(({ role, content }) => {
    const words = fill(make("div", { className: "vt-words" }), content);
    return single ? words : make("div", { className: `vt-turn vt-${role}` }, make("h3", {}, ROLES[role] ?? role), words);
  });
  const box = part("prompt");
  box.replaceChildren(...turns);
  // The answers reply to the last turn, so a long conversation opens at its end.
  box.scrollTop = single ? 0 : box.scrollHeight;
}

function showEmpty(text, signIn) {
  if (pairOnScreen()) return;
  clearTimeout(emptyTimer);
  part("empty").replaceChildren(inert(text), ...signInLink(signIn));
}

function setVotable(votable) {
  for (const button of part("buttons").querySelectorAll("[data-choice]")) {
    button.setAttribute("aria-disabled", String(!votable));
  }
}

// ---------------------------------------------------------------- how far: never which way

let progress = null; // as the server counts: {mine, everyone, pairs_wanted}
let changes = 0; // votes saved and undone since the page was shown

function countMine(change) {
  changes += 1;
  if (!progress) return;
  for (const tally of [progress.mine, progress.everyone]) {
    tally.today = Math.max(0, tally.today + change);
    tally.all = Math.max(0, tally.all + change);
  }
  showProgress();
}

function showProgress() {
  const { mine, everyone, pairs_wanted: wanted } = progress;
  const today = mine.today === 1 ? "1 vote from you today" : `${mine.today} votes from you today`;
  part("today").textContent = `${today}, ${mine.all} in all`;
  const pairs = wanted === 1 ? "1 pair wants votes." : `${wanted} pairs want votes.`;
  // The server counts everyone's anew every few seconds only: never fewer than this voter's.
  const all = { today: Math.max(everyone.today, mine.today), all: Math.max(everyone.all, mine.all) };
  part("mine-progress").textContent = `You: ${mine.today} today, ${mine.all} in all. Everyone: ${all.today} today, ${all.all} in all. ${pairs}`;
  part("consent").hidden = mine.all > 0;
}

async function loadProgress() {
  const before = changes;
  const midnight = new Date(new Date().setHours(0, 0, 0, 0)).toISOString();
  const answer = await ask("GET", `progress?since=${encodeURIComponent(midnight)}`);
  // Where nobody can tell whether this voter has voted, the terms are said once more.
  if (answer.status !== 200) return void (part("consent").hidden = progress?.mine.all > 0);
  // A vote was saved meanwhile, and the count may have it or not.
  if (changes !== before) return void setTimeout(loadProgress, 1000);
  progress = answer.body;
  heard = heard || progress.mine.all > 0;
  return showProgress();
}

// ---------------------------------------------------------------- why: optional, for the vote just saved

let amending = null; // {vote, reasons, comment} of the newest saved vote

function showLast(voteId, choice) {
  flushComment();
  amending = { vote: voteId, reasons: [], comment: "" };
  part("comment").value = "";
  part("last-title").textContent = `Your last vote: ${CHOICES.find((other) => other.choice === choice).label}. Why? (optional)`;
  for (const button of part("reasons").children) button.setAttribute("aria-pressed", "false");
  part("last").hidden = false;
}

function hideLast() {
  amending = null;
  part("last").hidden = true;
}

function amend() {
  for (const entry of outbox.filter((other) => other.kind === "amend" && other.vote === amending.vote && other !== inFlight)) dropEntry(entry);
  enqueue({ kind: "amend", ...amending });
}

function toggleReason(button, reason) {
  if (!amending) return;
  const chosen = !amending.reasons.includes(reason);
  amending.reasons = REASONS.filter((other) => (other === reason ? chosen : amending.reasons.includes(other)));
  button.setAttribute("aria-pressed", String(chosen));
  amend();
}

function flushComment() {
  const comment = part("comment").value.trim();
  if (!amending || comment === amending.comment) return;
  amending.comment = comment;
  amend();
}

// ---------------------------------------------------------------- building, keys, start

function buildAnswers() {
  for (const { side, name } of SIDES) {
    const title = make("h2", { id: `vt-title-${side}` }, `Answer ${name}`);
    const text = make("div", { className: "vt-text", tabIndex: 0, role: "region" });
    text.dataset.vt = `answer-${side}`;
    text.setAttribute("aria-labelledby", title.id);
    part("answers").append(make("div", { className: "vt-answer" }, title, text));
  }
}

function buildButton({ key, label }, act) {
  const button = make("button", { type: "button", className: "vt-button" }, make("kbd", {}, key), make("span", {}, label));
  button.setAttribute("aria-keyshortcuts", key);
  button.addEventListener("click", act);
  part("buttons").append(button);
  return button;
}

function buildButtons() {
  for (const item of CHOICES) {
    buildButton(item, () => vote(item.choice)).dataset.choice = item.choice;
  }
  buildButton(UNDO, undo).dataset.undo = "";
}

function buildReasons() {
  for (const reason of REASONS) {
    const button = make("button", { type: "button", className: "vt-reason" }, reason);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => toggleReason(button, reason));
    part("reasons").append(button);
  }
  part("comment").addEventListener("change", flushComment);
  part("last").addEventListener("submit", (event) => (event.preventDefault(), flushComment()));
}

function typing(target) {
  return target instanceof Element && (target.isContentEditable || target.closest("input, textarea, select") !== null);
}

function onKey(event) {
  if (event.repeat || event.isComposing || event.defaultPrevented) return;
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (typing(event.target) || !element.checkVisibility() || myVotesOpen()) return;
  const pressed = event.key.toUpperCase();
  // Keyboards that put digits on Shift still have them on the keys named Digit1 to Digit4.
  const item = CHOICES.find(({ key }) => key === pressed || `Digit${key}` === event.code);
  if (item) vote(item.choice);
  else if (pressed === UNDO.key) undo();
  else return;
  event.preventDefault();
}

// Gradio may build the page anew (a tab shown again): the older copy then stops.
window.votetuneVotePage?.abort();
const over = new AbortController();
window.votetuneVotePage = over;

/** Now and then: this tab is alive, and what closed tabs left is taken over. */
function touch() {
  tellOtherTabs();
  outbox.forEach(keepEntry);
  adopt();
  if (document.visibilityState === "visible") loadProgress();
}

async function start() {
  part("notice").textContent = props.notice ?? "";
  part("notice").hidden = !props.notice;
  part("consent").textContent =
    `Your votes and comments are stored, and may be published as open data under ${props.licence}. ` +
    "You can see them and delete them under My votes.";
  buildAnswers();
  buildButtons();
  buildReasons();
  buildReading();
  buildMyVotes();
  buildOwn();
  document.addEventListener("keydown", onKey, { signal: over.signal });
  window.addEventListener("online", () => (wake(), refill()), { signal: over.signal });
  window.addEventListener("pagehide", () => forget(HOLDS_PREFIX + tab.id), { signal: over.signal });
  window.addEventListener("pageshow", tellOtherTabs, { signal: over.signal });
  const touching = setInterval(touch, TOUCH_EVERY_MS);
  over.signal.addEventListener("abort", () => clearInterval(touching));
  tellOtherTabs();
  showPair();
  await refill();
  adopt();
  if (!progress) await loadProgress();
  await loadMe();
}

start();
