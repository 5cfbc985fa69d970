// Words of a model drawn as Markdown: a parser's tokens become elements of a short list, and nothing
// else can. Gives no text to the HTML parser; makes no link that leads anywhere, no image, style,
// form or id; drops no word. Where the parser would drop one, or drawing could take long, it gives
// up and the text is shown as it was written.

// Above any of these, drawing could hold the page up: cheap to count, and decided before parsing.
const LONGEST = 20_000; // characters
const MOST = [
  [/\n/g, 1_500],
  [/\|/g, 2_000],
  [/[*_~`$\\]/g, 4_000],
  [/[[\]]/g, 400],
  [HIDDEN, MOST_MARKS],
];
const MOST_CODE = 10_000; // characters of one answer that are coloured
const DEEP = /^(?:[ \t]*(?:>|[-+*]|\d{1,9}[.)])){9}/m;
// Without one of these, Markdown and plain text are the same.
const MARKDOWN = /[*_`~#>|[\]]|^(?:[-+=]|\d+[.)]|[ \t])/m;
// What Markdown spells with: everything else must come out as it went in.
const SPELLING = /[\s*_`~#>|[\]()\\!\-+=:.'"<]+/gu;
const KEPT_ESCAPES = /^\\[^*_`~#>|\-+.!<\n]/;
const FORMULAS = [["\\(", "\\)"], ["\\[", "\\]"], ["$$", "$$"]];
const LONGEST_FORMULA = 2_000;

/** A parser of what models write; formulas and the backslashes of other notations stay as written. */
function buildParser(markdownit) {
  const parser = markdownit({ html: false, linkify: false, typographer: false, maxNesting: 40 });
  // References and entities would change or hide words; an address is not a way out of the page.
  parser.disable(["reference", "entity", "autolink"]);
  parser.validateLink = () => true;
  parser.normalizeLink = parser.normalizeLinkText = (address) => address;
  parser.inline.ruler.before("escape", "as_written", (state, silent) => {
    const from = state.src.slice(state.pos, state.pos + LONGEST_FORMULA);
    const words = formulaAt(from) ?? KEPT_ESCAPES.exec(from)?.[0];
    if (!words || state.pos + words.length > state.posMax) return false;
    if (!silent) state.push("as_written", "", 0).content = words;
    state.pos += words.length;
    return true;
  });
  return parser;
}

function formulaAt(text) {
  const found = FORMULAS.find(([left]) => text.startsWith(left));
  const end = found ? text.indexOf(found[1], found[0].length) : -1;
  return end < 0 ? null : text.slice(0, end + found[1].length);
}

/** Whether `text` may be drawn: long, wide or deep ones could hold the page up. */
function isDrawable(text) {
  if (text.length > LONGEST || text.includes("\0") || DEEP.test(text)) return false;
  return MOST.every(([pattern, most]) => (text.match(pattern)?.length ?? 0) <= most);
}

/** `text` as elements, or null where it is better shown as written. */
function drawMarkdown(parser, text) {
  if (!isDrawable(text)) return null;
  const tokens = parser.parse(text, {}).flatMap((token) => (token.type === "inline" ? token.children : [token]));
  const box = make("div", { className: "vt-md" });
  const pen = { at: [box], links: [], spoken: [], code: [], codeLeft: MOST_CODE };
  for (const token of tokens) draw(pen, token);
  const said = (words) => words.replace(SPELLING, "");
  if (said(pen.spoken.join("")) !== said(text)) return null;
  colourSoon(pen.code);
  return box;
}

// ---------------------------------------------------------------- one token at a time

const OPENS = {
  paragraph_open: () => make("p"),
  blockquote_open: () => make("blockquote"),
  bullet_list_open: () => make("ul"),
  ordered_list_open: (token) => make("ol", { start: Number(token.attrGet("start") ?? 1) }),
  heading_open: openHeading,
  list_item_open: openItem,
  table_open: () => make("table"),
  thead_open: () => make("thead"),
  tbody_open: () => make("tbody"),
  tr_open: () => make("tr"),
  th_open: (token) => openCell("th", token),
  td_open: (token) => openCell("td", token),
  strong_open: () => make("strong"),
  em_open: () => make("em"),
  s_open: () => make("s"),
  link_open: openLink,
};
const LEAVES = {
  text: (pen, token) => inert(token.content),
  as_written: (pen, token) => make("span", { className: "vt-formula" }, inert(token.content)),
  code_inline: (pen, token) => make("code", {}, inert(token.content)),
  code_block: drawCode,
  fence: drawCode,
  image: drawImage,
  hr: () => make("hr"),
  softbreak: () => make("br"),
  hardbreak: () => make("br"),
};

function draw(pen, token) {
  const top = pen.at.at(-1);
  if (token.nesting > 0) {
    // Items of a tight list have paragraphs that are not to be seen.
    const child = token.hidden ? top : OPENS[token.type](token, pen);
    if (child !== top) top.append(child.tagName === "TABLE" ? scrollable(child, "Table") : child);
    pen.at.push(child);
  } else if (token.nesting < 0) {
    if (token.type === "link_close") top.append(...drawAddress(pen, pen.links.pop()));
    pen.at.pop();
  } else {
    if (token.type !== "image") pen.spoken.push(token.info ?? "", token.content);
    top.append(LEAVES[token.type](pen, token));
  }
}

function openHeading(token) {
  const level = Number(token.tag.slice(1));
  const heading = make("div", { className: `vt-heading vt-heading-${Math.min(level, 3)}`, role: "heading" });
  heading.ariaLevel = String(Math.min(level + 2, 6)); // below the page's own
  return heading;
}

function openItem(token, pen) {
  const item = make("li");
  pen.spoken.push(token.info);
  // As the model numbered it, right or wrong.
  if (token.info) item.value = Number(token.info);
  return item;
}

function openCell(tag, token) {
  const side = /center|right/.exec(token.attrGet("style") ?? "")?.[0];
  return make(tag, { className: side ? `vt-${side}` : "" });
}

function openLink(token, pen) {
  pen.links.push(token);
  return make("span", { className: "vt-link" });
}

/** Where a link or an image would have led, as text that leads nowhere. */
function drawAddress(pen, token) {
  const parts = [token.attrGet("href") ?? token.attrGet("src"), token.attrGet("title")].filter(Boolean);
  pen.spoken.push(...parts);
  return parts.length ? [make("span", { className: "vt-address" }, " (", inert(parts.join(" ")), ")")] : [];
}

function drawImage(pen, token) {
  pen.spoken.push(token.content);
  const label = make("span", { className: "vt-mark" }, "image");
  return make("span", { className: "vt-image" }, label, inert(token.content), ...drawAddress(pen, token));
}

function drawCode(pen, token) {
  const code = make("code", {}, inert(token.content.replace(/\n$/, "")));
  const language = /^[\w+#.-]+/.exec(token.info)?.[0].toLowerCase();
  if (language && token.content.length <= pen.codeLeft) {
    pen.codeLeft -= token.content.length;
    pen.code.push({ code, language, text: code.textContent });
  }
  const box = scrollable(make("pre", {}, code), "Code");
  if (token.info) box.prepend(make("span", { className: "vt-language" }, inert(token.info)));
  return box;
}

/** What may be wider than its pane scrolls by itself, with the keyboard too. */
function scrollable(node, name) {
  const box = make("div", { className: "vt-scroll", tabIndex: 0, role: "group" }, node);
  box.ariaLabel = name;
  return box;
}

// ---------------------------------------------------------------- colours of code

/** Copy of what highlight.js wrote: text, and spans with its own class names. */
function copyColours(from, to) {
  for (const node of from.childNodes) {
    if (node.nodeType === Node.TEXT_NODE) to.append(inert(node.data));
    if (node.nodeType !== Node.ELEMENT_NODE) continue;
    const names = [...node.classList].filter((name) => /^(hljs-[\w-]+|\w+_)$/.test(name));
    const span = make("span", { className: names.join(" ") });
    copyColours(node, span);
    to.append(span);
  }
  return to;
}

function colour(highlighter, { code, language, text }) {
  if (!highlighter.getLanguage(language) || code.textContent !== text) return;
  const { value } = highlighter.highlight(text, { language, ignoreIllegals: true });
  // A document that no page shows: nothing in it runs or is fetched.
  const written = new DOMParser().parseFromString(value, "text/html").body;
  if (written.textContent === text) code.replaceChildren(copyColours(written, document.createDocumentFragment()));
}
