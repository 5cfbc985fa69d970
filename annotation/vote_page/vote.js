// The vote page's behaviour: which pair is on screen, which votes wait to be saved, what is said.
// Gradio runs this text once as the body of a function of `element` and `props` (gr.HTML, js_on_load).
// It talks to the routes under /api alone, and treats every word of a model or of the server as text.
"use strict";

const SIDES = [{ side: "a", name: "A" }, { side: "b", name: "B" }];
const CHOICES = [
  { choice: "a", key: "1", label: "A is better" },
  { choice: "b", key: "2", label: "B is better" },
  { choice: "tie", key: "3", label: "Tie" },
  { choice: "both_bad", key: "4", label: "Both bad" },
  { choice: "skip", key: "S", label: "Skip" },
];
const UNDO = { key: "U", label: "Undo" };
const REASONS = ["correct", "clear", "safe", "style"];
const ROLES = { system: "Instructions", user: "Person", assistant: "Assistant" };

const AHEAD = 2; // pairs fetched before they are needed
const MAX_OPEN = 4; // the server lends a voter no more than this
const UNDOABLE = 20;
const TIMEOUT_MS = 20_000;
const LONGEST_WAIT_S = 30;
const TOUCH_EVERY_MS = 30_000;
const GONE_AFTER_MS = 150_000; // browsers slow a hidden tab's timers down to one a minute
const TAB_KEY = "votetune.tab";
const OUTBOX_PREFIX = "votetune.outbox.";
const HOLDS_PREFIX = "votetune.holds.";
const HELD = 0.5; // in place of a status: the server lent again what this voter's tabs already hold

// ---------------------------------------------------------------- text that stays text

const MARK_NAMES = {
  0xad: "SHY", 0x200b: "ZWSP", 0x200c: "ZWNJ", 0x200d: "ZWJ", 0x200e: "LRM", 0x200f: "RLM",
  0x202a: "LRE", 0x202b: "RLE", 0x202c: "PDF", 0x202d: "LRO", 0x202e: "RLO", 0x2060: "WJ",
  0x2066: "LRI", 0x2067: "RLI", 0x2068: "FSI", 0x2069: "PDI", 0xfeff: "BOM",
};
const HIDDEN = new RegExp(
  "([\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u115f\\u1160\\u180e" +
    "\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff\\uffa0\\ufff9-\\ufffb" +
    "\\u{e0000}-\\u{e007f}])\\1*",
  "gu",
);
const MOST_MARKS = 400;
// Joiners spell words in many scripts and build emoji: there they hide nothing.
const JOINED = /(?:[\p{Extended_Pictographic}\ufe0f\u{1f3fb}-\u{1f3ff}]\u200d\p{Extended_Pictographic}|(?!\p{Script=Latin})[\p{L}\p{M}][\u200c\u200d](?!\p{Script=Latin})[\p{L}\p{M}])/u;

function joins(text, at) {
  const before = String.fromCodePoint(text.codePointAt(Math.max(0, at - 2)) ?? 32);
  const start = before.length === 2 ? at - 2 : Math.max(0, at - 1);
  return JOINED.test(text.slice(start, at + 3));
}

function markName(run) {
  const code = run.codePointAt(0);
  const name = MARK_NAMES[code] ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  const times = run.length / String.fromCodePoint(code).length;
  return times > 1 ? `${name}×${times}` : name;
}

/** `text` as nodes that can do nothing: text, and a small mark for each character that hides. */
function inert(text) {
  const out = document.createDocumentFragment();
  const shown = text.replace(/\r\n?/g, "\n");
  let from = 0;
  let marks = 0;
  for (const found of shown.matchAll(HIDDEN)) {
    if (joins(shown, found.index)) continue;
    out.append(shown.slice(from, found.index));
    const name = markName(found[0]);
    out.append((marks += 1) > MOST_MARKS ? `[${name}]` : make("span", { className: "vt-mark", title: "invisible character" }, name));
    from = found.index + found[0].length;
  }
  out.append(shown.slice(from));
  out.normalize();
  return out;
}

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const part = (name) => element.querySelector(`[data-vt="${name}"]`);

// ---------------------------------------------------------------- the server

function apiRoot() {
  const root = new URL(window.gradio_config?.root || "/", window.location.href);
  return `${window.location.origin}${root.pathname.replace(/\/+$/, "")}/api/`;
}

/** {status, body, retryAfterS}; status 0 when no answer came. Never throws. */
async function ask(method, path, body) {
  const request = { method, keepalive: method !== "GET", signal: AbortSignal.timeout(TIMEOUT_MS) };
  if (body !== undefined) {
    request.headers = { "Content-Type": "application/json" };
    request.body = JSON.stringify(body);
  }
  try {
    const response = await fetch(apiRoot() + path, request);
    const answer = await response.json().catch(() => null);
    return { status: response.status, body: answer, retryAfterS: Number(response.headers.get("Retry-After")) || 0 };
  } catch {
    return { status: 0, body: null, retryAfterS: 0 };
  }
}

function detailOf(answer) {
  const detail = answer.body?.detail;
  return typeof detail === "string" ? detail : `the server answered ${answer.status}.`;
}

// ---------------------------------------------------------------- what this browser keeps

/** Storage that may be full or forbidden: then memory alone holds what it would have kept. */
function kept(kind) {
  try {
    return window[kind];
  } catch {
    return null;
  }
}

function keep(kind, key, value) {
  try {
    kept(kind)?.setItem(key, JSON.stringify(value));
  } catch {
    // Full: the page goes on from memory.
  }
}

function recall(kind, key) {
  try {
    return JSON.parse(kept(kind)?.getItem(key) ?? "null");
  } catch {
    return null;
  }
}

function keysOf(prefix) {
  return Object.keys(kept("localStorage") ?? {}).filter((name) => name.startsWith(prefix));
}

function forget(key) {
  kept("localStorage")?.removeItem(key);
}

const newId = () => `${Date.now()}-${Math.random().toString(36).slice(2)}`;

// One tab: the pairs it holds (the first is on screen) and what it can take back.
const tab = { id: newId(), open: [], past: [], ...recall("sessionStorage", TAB_KEY) };
// Votes, amendments and undos on their way, oldest first; each is mirrored to localStorage.
const outbox = [];

function keepTab() {
  keep("sessionStorage", TAB_KEY, tab);
  tellOtherTabs();
}

function keepEntry(entry) {
  keep("localStorage", OUTBOX_PREFIX + entry.id, { ...entry, tab: tab.id, touched: Date.now() });
}

function enqueue(entry) {
  const waiting = { id: newId(), ...entry };
  outbox.push(waiting);
  keepEntry(waiting);
  drain();
}

function dropEntry(entry) {
  const at = outbox.indexOf(entry);
  if (at >= 0) outbox.splice(at, 1);
  forget(OUTBOX_PREFIX + entry.id);
}

/** Take over what this tab left before a reload, and what closed tabs left behind. */
function adopt() {
  for (const name of keysOf(OUTBOX_PREFIX).sort()) {
    const entry = recall("localStorage", name);
    const mine = entry && (entry.tab === tab.id || Date.now() - entry.touched > GONE_AFTER_MS);
    if (!mine || outbox.some((other) => other.id === entry.id)) continue;
    outbox.push(entry);
    keepEntry(entry);
  }
  drain();
}

// ---------------------------------------------------------------- pairs: one on screen, some ahead

let refilling = false;
let refillTimer = 0;
let failures = 0;
let heard = false; // whether a pair was ever there: tells "first answers" from "no more"

/** Pairs that this tab shows, holds ready or has judged: a late answer may lend one of them again. */
function pairsHere() {
  const waiting = outbox.filter((entry) => entry.kind === "vote");
  return [...tab.open.map((pair) => pair.id), ...tab.past.map((past) => past.pair), ...waiting.map((entry) => entry.pair)];
}

/** Whether another tab of this browser has the pair; a tab not heard of for long is gone. */
function isInAnotherTab(pairId) {
  return keysOf(HOLDS_PREFIX).some((name) => {
    const holds = name === HOLDS_PREFIX + tab.id ? null : recall("localStorage", name);
    return holds && Date.now() - holds.touched < GONE_AFTER_MS && holds.pairs.includes(pairId);
  });
}

function tellOtherTabs() {
  keep("localStorage", HOLDS_PREFIX + tab.id, { pairs: pairsHere(), touched: Date.now() });
}

/** A pair that no tab here has. Past its limit the server lends the open ones again, in turn. */
async function askForPair() {
  for (let tries = 0; tries < MAX_OPEN; tries += 1) {
    const answer = await ask("POST", "pairs");
    const taken = answer.status === 201 && (pairsHere().includes(answer.body.id) || isInAnotherTab(answer.body.id));
    if (!taken) return answer;
  }
  return { status: HELD, body: null, retryAfterS: 0 };
}

const openCount = () => tab.open.length + outbox.filter((entry) => entry.kind === "vote").length;

/** Fetch until enough pairs are ahead; one request at a time, so that the first sets the cookie. */
async function refill() {
  if (refilling) return;
  refilling = true;
  clearTimeout(refillTimer);
  while (tab.open.length < 1 + AHEAD && openCount() < MAX_OPEN) {
    const answer = await askForPair();
    if (over.signal.aborted) return;
    if (answer.status !== 201) {
      refillLater(answer);
      break;
    }
    failures = 0;
    tab.open.push(answer.body);
    keepTab();
    if (tab.open.length === 1) showPair();
  }
  refilling = false;
}

function refillLater(answer) {
  failures += 1;
  const waitS = waitFor(answer, failures);
  refillTimer = setTimeout(refill, waitS * 1000);
  if (!tab.open.length) showEmpty(whyEmpty(answer));
}

/** Seconds until the next try: what the server asked for, else doubling from 1. */
function waitFor(answer, tries) {
  const wanted = answer.retryAfterS || 2 ** Math.min(tries - 1, 5);
  return Math.min(Math.max(wanted, 0.5), LONGEST_WAIT_S);
}

function whyEmpty(answer) {
  if (answer.status === 0) return "The server can’t be reached. This page keeps trying; votes you have cast are kept.";
  if (answer.status === 503 && !heard) return "Writing the first answers… They will appear here by themselves.";
  if (answer.status === HELD) return "Your other tabs hold the pairs that are open for you: vote there, or close them.";
  if (answer.status === 503) return "No pair is ready just now. More are on the way and will appear here by themselves.";
  return `No pair came: ${detailOf(answer)} Trying again soon.`;
}

// ---------------------------------------------------------------- voting

function vote(choice) {
  const pair = tab.open.shift();
  if (!pair) return;
  tab.past = [...tab.past, { pair: pair.id, choice, vote: null, shown: pair }].slice(-UNDOABLE);
  keepTab();
  showPair();
  enqueue({ kind: "vote", pair: pair.id, choice });
  refill();
}

/** Take the newest vote back: at once where the server can't have it, else by asking the server. */
function undo() {
  const last = tab.past.pop();
  keepTab();
  if (!last) return say("There is no vote to take back.");
  hideLast();
  if (last.vote) return undoSaved(last);
  const entry = outbox.find((other) => other.kind === "vote" && other.pair === last.pair);
  if (!entry) return say("There is no vote to take back.");
  if (entry === inFlight || entry.unsure) {
    entry.undone = last;
    keepEntry(entry);
    return say("Taking it back as soon as the server answers.");
  }
  dropEntry(entry);
  putBack(last.shown);
  return say("Taken back.");
}

function undoSaved(last) {
  // Only a skip reveals nothing, so only a skipped pair may come back on screen.
  if (last.choice === "skip" && last.shown) putBack(last.shown);
  enqueue({ kind: "undo", vote: last.vote, choice: last.choice });
}

function putBack(pair) {
  if (!pair || tab.open.some((other) => other.id === pair.id)) return;
  tab.open.unshift(pair);
  keepTab();
  showPair();
}

// ---------------------------------------------------------------- the outbox

const REQUESTS = {
  vote: (entry) => ["POST", "votes", { pair: entry.pair, choice: entry.choice }],
  amend: (entry) => ["PATCH", `votes/${encodeURIComponent(entry.vote)}`, { reasons: entry.reasons, comment: entry.comment }],
  undo: (entry) => ["DELETE", `votes/${encodeURIComponent(entry.vote)}`],
};
const SETTLED = { vote: voteSaved, amend: () => say("Noted, thank you."), undo: undoneSaved };

let inFlight = null;
let draining = false;
let wake = () => {};

/** Send what waits, oldest first, until nothing does; only an answer settles an entry. */
async function drain() {
  if (draining) return;
  draining = true;
  let tries = 0;
  while (outbox.length && !over.signal.aborted) {
    const entry = outbox[0];
    const answer = await send(entry);
    if (over.signal.aborted) return;
    if (settle(entry, answer)) {
      tries = 0;
      continue;
    }
    tries += 1;
    await pause(waitFor(answer, tries));
  }
  draining = false;
}

async function send(entry) {
  if (navigator.onLine === false) return { status: 0, body: null, retryAfterS: 0 };
  inFlight = entry;
  const answer = await ask(...REQUESTS[entry.kind](entry));
  inFlight = null;
  return answer;
}

/** True when the entry is done with, saved or refused; false when it has to be sent again. */
function settle(entry, answer) {
  if (answer.status >= 200 && answer.status < 300) {
    dropEntry(entry);
    SETTLED[entry.kind](entry, answer.body);
    refill();
    return true;
  }
  if (answer.status >= 400 && answer.status < 500 && ![408, 425, 429].includes(answer.status)) {
    dropEntry(entry);
    refused(entry, answer);
    return true;
  }
  // No answer, or a server that broke down: the vote may be stored, so it can't be forgotten here.
  if (![429, 503, 507].includes(answer.status)) entry.unsure = entry.unsure || navigator.onLine !== false;
  keepEntry(entry);
  if (answer.status === 500) outbox.push(outbox.shift());
  sayWaiting(answer);
  return false;
}

function pause(seconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    wake = () => (clearTimeout(timer), resolve());
  });
}

function sayWaiting(answer) {
  const waiting = outbox.filter((entry) => entry.kind === "vote").length;
  const votes = waiting > 1 ? `${waiting} votes are kept here. ` : "";
  const why = { 0: "The server can’t be reached.", 429: "That was fast.", 507: "The server’s disk is full." }[answer.status] ?? "";
  say(`Not saved yet, retrying. ${votes}${why}`);
}

function voteSaved(entry, saved) {
  if (entry.undone) return undoSaved({ ...entry.undone, vote: saved.id });
  const past = tab.past.find((other) => other.pair === entry.pair);
  if (past) {
    past.vote = saved.id;
    if (entry.choice !== "skip") past.shown = null;
    keepTab();
  }
  if (entry.choice === "skip") return say("Skipped.");
  countToday(1);
  showLast(saved.id, entry.choice);
  return say(`Saved. ${modelsLine(saved.models)} ${countsLine(saved)}`);
}

function modelsLine(models) {
  const names = SIDES.map(({ side }) => models?.[side]);
  if (names.some((name) => !name)) return "";
  if (names[0] === names[1]) return `Both were ${names[0]}.`;
  return `${SIDES.map(({ name }, i) => `${name} was ${names[i]}`).join(", ")}.`;
}

function countsLine(saved) {
  if (saved.counted) return "It counts.";
  return saved.why ? `It does not count, because ${saved.why.replace(/\.$/, "")}.` : "It does not count.";
}

function undoneSaved(entry) {
  if (entry.choice !== "skip") countToday(-1);
  say("Taken back.");
}

function refused(entry, answer) {
  tab.past = tab.past.filter((past) => past.pair !== entry.pair);
  // Where one pair is unknown or somebody else's, those fetched with it are too; never the one on screen.
  if (entry.kind === "vote" && [403, 404].includes(answer.status)) tab.open.splice(1);
  keepTab();
  say(`${entry.kind === "vote" ? "That vote was not saved" : "That was not saved"}: ${detailOf(answer)}`);
  refill();
}

// ---------------------------------------------------------------- what the voter sees

let emptyTimer = 0;

function say(text) {
  part("status").replaceChildren(inert(text));
}

function showPair() {
  clearTimeout(emptyTimer);
  const pair = tab.open[0];
  part("pair").hidden = !pair;
  setVotable(Boolean(pair));
  // Said only if it lasts: the next pair is usually there within a blink.
  if (!pair) return (emptyTimer = setTimeout(showEmpty, 300, "Fetching the next pair…"));
  heard = true;
  part("empty").replaceChildren();
  showPrompt(pair.prompt);
  for (const { side } of SIDES) {
    const pane = part(`answer-${side}`);
    pane.replaceChildren(inert(pair[side]));
    pane.scrollTop = 0;
  }
  return undefined;
}

function showPrompt(messages) {
  const single = messages.length === 1;
  const turns = messages.map(({ role, content }) => {
    const words = make("div", { className: "vt-words" }, inert(content));
    return single ? words : make("div", { className: `vt-turn vt-${role}` }, make("h3", {}, ROLES[role] ?? role), words);
  });
  const box = part("prompt");
  box.replaceChildren(...turns);
  // The answers reply to the last turn, so a long conversation opens at its end.
  box.scrollTop = single ? 0 : box.scrollHeight;
}

function showEmpty(text) {
  if (tab.open.length) return;
  clearTimeout(emptyTimer);
  part("empty").replaceChildren(inert(text));
}

function setVotable(votable) {
  for (const button of part("buttons").querySelectorAll("[data-choice]")) {
    button.setAttribute("aria-disabled", String(!votable));
  }
}

let today = null;
let changes = 0; // votes saved and undone since the page was shown

function countToday(change) {
  changes += 1;
  if (today !== null) showToday(today + change);
}

function showToday(count) {
  today = Math.max(0, count);
  part("today").textContent = today === 1 ? "1 vote from you today" : `${today} votes from you today`;
}

async function loadToday() {
  const before = changes;
  const answer = await ask("GET", "me/votes");
  if (answer.status !== 200 || !Array.isArray(answer.body)) return;
  // A vote was saved meanwhile, and the list may have it or not.
  if (changes !== before) return void setTimeout(loadToday, 1000);
  const day = new Date().toDateString();
  const cast = answer.body.filter((receipt) => receipt.choice !== "skip" && !receipt.undone_at);
  heard = heard || cast.length > 0;
  showToday(cast.filter((receipt) => new Date(receipt.created_at).toDateString() === day).length);
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
  if (typing(event.target) || !element.checkVisibility()) return;
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
}

async function start() {
  part("notice").textContent = props.notice ?? "";
  part("notice").hidden = !props.notice;
  buildAnswers();
  buildButtons();
  buildReasons();
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
  await loadToday();
}

start();
