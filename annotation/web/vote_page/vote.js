// Pairs fetched ahead, votes, undo, and the outbox's way to the server. Says what happened through
// page.js and touches no element itself.

const SIDES = [{ side: "a", name: "A" }, { side: "b", name: "B" }];
const CHOICES = [
  { choice: "a", key: "1", label: "A is better" },
  { choice: "b", key: "2", label: "B is better" },
  { choice: "tie", key: "3", label: "Tie" },
  { choice: "both_bad", key: "4", label: "Both bad" },
  { choice: "skip", key: "S", label: "Skip" },
];
const AHEAD = 2; // pairs fetched before they are needed
const MAX_OPEN = 4; // the server lends a voter no more than this
const UNDOABLE = 20;
const LONGEST_WAIT_S = 30;
const HOLDS_PREFIX = "votetune.holds.";
const HELD = 0.5; // in place of a status: the server lent again what this voter's tabs already hold

// ---------------------------------------------------------------- pairs: one on screen, some ahead

let refilling = false;
let refillTimer = 0;
let failures = 0;
let lentAnew = 0; // how often this voter became somebody else, to whom no earlier pair is lent
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

/** The voter is somebody else now: what is here, and what still comes, was lent to nobody. */
function forgetPairs() {
  lentAnew += 1;
  Object.assign(tab, { open: [], past: [] });
  keepTab();
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
    const before = lentAnew;
    const answer = await askForPair();
    if (over.signal.aborted) return;
    if (before !== lentAnew) continue;
    if (answer.status !== 201) {
      refillLater(answer);
      break;
    }
    failures = 0;
    tab.open.push(answer.body);
    keepTab();
    if (tab.open.length === 1) {
      showPair();
      if (!progress) loadProgress(); // the voter is known from now on
    }
  }
  refilling = false;
}

function refillLater(answer) {
  failures += 1;
  const waitS = waitFor(answer, failures);
  refillTimer = setTimeout(refill, waitS * 1000);
  if (!tab.open.length) showEmpty(whyEmpty(answer), answer.body?.sign_in);
}

/** Seconds until the next try: what the server asked for, else doubling from 1. */
function waitFor(answer, tries) {
  const wanted = answer.retryAfterS || 2 ** Math.min(tries - 1, 5);
  return Math.min(Math.max(wanted, 0.5), LONGEST_WAIT_S);
}

function whyEmpty(answer) {
  if (answer.status === 0) return "The server can’t be reached. This page keeps trying; votes you have cast are kept.";
  if (answer.status === 503 && /^Restoring/.test(detailOf(answer))) return detailOf(answer);
  if (answer.status === 503 && !heard) return "Writing the first answers… They will appear here by themselves.";
  if (answer.status === HELD) return "Your other tabs hold the pairs that are open for you: vote there, or close them.";
  if (answer.status === 503) return "No pair is ready just now. More are on the way and will appear here by themselves.";
  if (answer.status === 401) return detailOf(answer);
  return `No pair came: ${detailOf(answer)} Trying again soon.`;
}

// ---------------------------------------------------------------- voting

function vote(choice) {
  if (drafting) return;
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
const SETTLED = { vote: voteSaved, amend: () => say(`${savedLine} Noted.`.trim()), undo: undoneSaved };

let savedLine = ""; // what was said of the newest saved vote
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
  if (answer.status >= 400 && answer.status < 500 && ![401, 408, 425, 429].includes(answer.status)) {
    dropEntry(entry);
    refused(entry, answer);
    return true;
  }
  // No answer, or a server that broke down: the vote may be stored, so it can't be forgotten here.
  if (![401, 429, 503, 507].includes(answer.status)) entry.unsure = entry.unsure || navigator.onLine !== false;
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
  const why = { 0: "The server can’t be reached.", 401: "Sign in again to save it.", 429: "That was fast.", 507: "The server’s disk is full." }[answer.status] ?? "";
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
  countMine(1);
  showLast(saved.id, entry.choice);
  savedLine = `Saved. ${modelsLine(saved.models)} ${countsLine(saved)}`;
  return say(savedLine);
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
  if (entry.choice !== "skip") countMine(-1);
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
