// First part of the vote page's script: words of a model or of the server as text that does nothing.
// page_files.py joins the scripts, in its order, into the body of one function of `element` and
// `props`, which tab.py's loader calls whenever Gradio shows the page.
"use strict";

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
  let plain = ""; // one text node between two marks, however many characters hide past the limit
  for (const found of shown.matchAll(HIDDEN)) {
    if (joins(shown, found.index)) continue;
    plain += shown.slice(from, found.index);
    from = found.index + found[0].length;
    const name = markName(found[0]);
    if ((marks += 1) > MOST_MARKS) plain += `[${name}]`;
    else {
      out.append(plain, make("span", { className: "vt-mark", title: "invisible character" }, name));
      plain = "";
    }
  }
  out.append(plain + shown.slice(from));
  return out;
}

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const part = (name) => element.querySelector(`[data-vt="${name}"]`);
