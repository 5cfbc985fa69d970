// What the script asks of the server, and what this browser keeps: the pairs that a tab holds, and
// the outbox of votes on their way. Decides nothing about either.

const TIMEOUT_MS = 20_000;
const GONE_AFTER_MS = 150_000; // browsers slow a hidden tab's timers down to one a minute
const TAB_KEY = "votetune.tab";
const OUTBOX_PREFIX = "votetune.outbox.";

// ---------------------------------------------------------------- the server

/** Where the app stands: our origin, and the path below which it is served. */
function pageRoot() {
  const root = new URL(window.gradio_config?.root || "/", window.location.href);
  return window.location.origin + root.pathname.replace(/\/+$/, "");
}

/** {status, body, retryAfterS}; status 0 when no answer came. Never throws. */
async function ask(method, path, body) {
  const request = { method, keepalive: method !== "GET", signal: AbortSignal.timeout(TIMEOUT_MS) };
  if (body !== undefined) {
    request.headers = { "Content-Type": "application/json" };
    request.body = JSON.stringify(body);
  }
  try {
    const response = await fetch(`${pageRoot()}/api/${path}`, request);
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
