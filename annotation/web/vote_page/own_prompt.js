// A question of the voter's own: both answers stream into the panes, then the pair is voted on like
// any other. The pair that was on screen comes back after it.

const MOST_OWN = 2000; // characters
const DRAW_EVERY_MS = 100;
const SEEN_BY = {
  open: "Others may see your question and vote on its answers.",
  moderated: "Others see your question once the owner of this page agrees.",
};

let drafting = null; // {prompt, a, b, stop}: what streams in now

function showDraft() {
  for (const { side } of SIDES) fill(part(`answer-${side}`), drafting[side]);
}

function countOwn() {
  const length = part("own-text").value.length;
  part("own-count").textContent = `${length} / ${MOST_OWN}`;
  part("own-ask").setAttribute("aria-disabled", String(!part("own-text").value.trim() || drafting !== null));
}

/** {pair}, {error}, or {stopped} where the voter cancelled. */
async function streamAnswers(text, signal, draw) {
  const response = await fetch(`${pageRoot()}/api/prompts`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ text }),
    signal,
  });
  if (response.status !== 200) {
    return { error: detailOf({ status: response.status, body: await response.json().catch(() => null) }) };
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines.filter(Boolean).map((each) => JSON.parse(each))) {
      if (line.pair || line.error) return line;
      draw(line);
    }
    if (done) return { error: "The answers stopped halfway: ask again." };
  }
}

async function askOwn() {
  const text = part("own-text").value.trim();
  if (!text || drafting) return;
  const stop = new AbortController();
  over.signal.addEventListener("abort", () => stop.abort());
  drafting = { prompt: [{ role: "user", content: text }], a: "", b: "", stop };
  showAsking(true);
  showPair();
  let timer = 0;
  const draw = (line) => {
    Object.assign(drafting, line);
    timer ||= setTimeout(() => ((timer = 0), drafting && showDraft()), DRAW_EVERY_MS);
  };
  const end = await streamAnswers(text, stop.signal, draw).catch(() =>
    stop.signal.aborted ? { stopped: true } : { error: "The server can’t be reached." },
  );
  clearTimeout(timer);
  drafting = null;
  if (over.signal.aborted) return;
  showAsking(false);
  endAsking(end);
}

function endAsking(end) {
  if (end.pair) {
    tab.open.unshift(end.pair);
    keepTab();
    part("own-text").value = "";
    part("own").open = false;
    say("Both answers to your question are here: vote as usual.");
  } else say(end.stopped ? "Your question was cancelled." : `Your question was not answered: ${end.error}`);
  countOwn();
  showPair();
}

function showAsking(asking) {
  part("own-text").readOnly = asking;
  part("own-text").rows = asking ? 1 : 3;
  part("own-ask").hidden = asking;
  part("own-cancel").hidden = !asking;
  for (const { side } of SIDES) part(`answer-${side}`).ariaBusy = String(asking);
  if (!asking) return;
  part("own-cancel").focus();
  say("Both answers are being written…");
}

function buildOwn() {
  part("own").hidden = !(props.own_prompts in SEEN_BY);
  part("own-note").textContent = SEEN_BY[props.own_prompts] ?? "";
  part("own-text").maxLength = MOST_OWN;
  part("own-text").addEventListener("input", countOwn);
  part("own-text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) askOwn();
  });
  part("own-ask").addEventListener("click", askOwn);
  part("own-cancel").addEventListener("click", () => drafting?.stop.abort());
  countOwn();
}
