// How a voter likes to read: Markdown or plain text, and how large. This browser remembers it. Loads
// the libraries when some words first want them; until they are there, or if they never come, text
// is plain.

const READING_KEY = "votetune.reading";
const SIZES = [0.875, 1, 1.125, 1.25, 1.5, 1.75]; // rem
const reading = { plain: false, size: 1, ...recall("localStorage", READING_KEY) };
const RIGHT_TO_LEFT = /[\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufeff\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

let parser = null;
let loading = null; // a promise of it, once some words want it
let highlighter = null; // a promise of it, once some code wants colours

function library(name) {
  return import(pageRoot() + FILES[name]);
}

/** Model or prompt text as nodes: Markdown where that is wanted and can be drawn, else as written. */
function written(text) {
  if (reading.plain || !MARKDOWN.test(text)) return inert(text);
  if (!parser) loading ??= loadParser();
  return (parser && drawMarkdown(parser, text)) || inert(text);
}

/** `text` into `box`. Its lines are asked for a direction each only where some could run the other
 * way: that takes the browser twice as long as all the rest of laying them out. */
function fill(box, text) {
  box.classList.toggle("vt-one-way", !RIGHT_TO_LEFT.test(text));
  box.replaceChildren(written(text));
  return box;
}

async function loadParser() {
  await library("markdown-it.js").catch(() => null);
  loading = null; // where it did not come, the next words ask again
  if (!globalThis.markdownit || over.signal.aborted) return;
  parser = buildParser(globalThis.markdownit);
  showWords();
}

/** Colours come after the words are on screen: they change no word and move nothing. */
function colourSoon(waiting) {
  if (!waiting.length) return;
  highlighter ??= library("highlight.js").then((module) => module.default);
  const colourAll = async () => {
    const ready = await highlighter?.catch(() => (highlighter = null));
    for (const block of ready ? waiting : []) if (block.code.isConnected) colour(ready, block);
  };
  requestAnimationFrame(() => setTimeout(colourAll));
}

// ---------------------------------------------------------------- the controls

function showReading() {
  element.querySelector(".vt").style.setProperty("--vt-reading", `${reading.size}rem`);
  part("plain").setAttribute("aria-pressed", String(reading.plain));
  const at = SIZES.indexOf(reading.size);
  part("smaller").setAttribute("aria-disabled", String(at === 0));
  part("larger").setAttribute("aria-disabled", String(at === SIZES.length - 1));
}

function setReading(change) {
  Object.assign(reading, change);
  keep("localStorage", READING_KEY, reading);
  showReading();
}

function resize(step) {
  const at = SIZES.indexOf(reading.size) + step;
  if (at in SIZES) setReading({ size: SIZES[at] });
}

function togglePlain() {
  setReading({ plain: !reading.plain });
  showWords();
}

function buildReading() {
  if (!SIZES.includes(reading.size)) reading.size = 1;
  reading.plain = reading.plain === true;
  part("smaller").addEventListener("click", () => resize(-1));
  part("larger").addEventListener("click", () => resize(1));
  part("plain").addEventListener("click", togglePlain);
  showReading();
}
