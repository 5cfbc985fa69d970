// The voter's own votes in a dialog over the page: what became of each, undo, and deletion of all.
// The pair on screen waits beneath.

const VOTES_AT_ONCE = 50;
const WHEN = { dateStyle: "medium", timeStyle: "short" };
const ASK_DELETE =
  "This deletes every vote of yours with its reasons and comment, here, in Argilla and in the backup. " +
  "It can’t be taken back. What a published dataset already holds can’t be called back.";

let oldestShown = null; // the id of the last vote in the list

function myVotesOpen() {
  return part("mine").open;
}

function openMyVotes() {
  part("mine-confirm").hidden = true;
  part("mine-list").replaceChildren();
  oldestShown = null;
  sayMine("Loading…");
  part("mine").showModal();
  part("mine-scroll").scrollTop = 0;
  loadMyVotes();
  loadProgress();
}

function sayMine(text) {
  part("mine-status").replaceChildren(inert(text));
}

async function loadMyVotes() {
  const before = oldestShown ? `&before=${encodeURIComponent(oldestShown)}` : "";
  const answer = await ask("GET", `me/votes?limit=${VOTES_AT_ONCE}&order=newest${before}`);
  if (answer.status !== 200) {
    part("mine-more").hidden = false;
    part("mine-more").textContent = "Try again";
    return sayMine(answer.status ? `Your votes did not come: ${detailOf(answer)}` : "The server can’t be reached.");
  }
  const receipts = answer.body;
  part("mine-list").append(...receipts.map(drawReceipt));
  oldestShown = receipts.at(-1)?.id ?? oldestShown;
  part("mine-more").textContent = "Show older votes";
  part("mine-more").hidden = receipts.length < VOTES_AT_ONCE;
  return sayMine(listLine());
}

function listLine() {
  const waiting = outbox.filter((entry) => entry.kind === "vote").length;
  const onTheirWay = waiting ? `Not saved yet, retrying: ${waiting}. ` : "";
  if (part("mine-list").children.length) return onTheirWay;
  return `${onTheirWay}No votes yet. Each vote that you cast is listed here, with what became of it.`;
}

// ---------------------------------------------------------------- one vote

const short = (text, most = 300) => (text.length >= most ? `${text}…` : text);

function drawReceipt(receipt) {
  const label = CHOICES.find(({ choice }) => choice === receipt.choice)?.label ?? receipt.choice;
  const when = make("time", { dateTime: receipt.created_at }, new Date(receipt.created_at).toLocaleString([], WHEN));
  const title = make("h3", {}, receipt.choice === "skip" ? "Skipped" : label, " ", make("span", { className: "vt-quiet" }, when));
  const answers = make("details", { className: "vt-shown" }, make("summary", {}, "Both answers"));
  for (const { side, name } of SIDES) {
    answers.append(make("h4", {}, name), make("div", { className: "vt-words" }, written(short(receipt[side]))));
  }
  const item = make("li", { className: "vt-receipt" }, title);
  item.append(make("div", { className: "vt-words" }, written(short(receipt.prompt))), answers);
  item.append(make("p", { className: "vt-fate" }, inert(fateOf(receipt))));
  if (!receipt.undone_at) item.append(undoButton(receipt, item));
  return item;
}

/** What became of a vote, in a line or two. */
function fateOf(receipt) {
  const models = modelsLine(receipt.models);
  if (receipt.undone_at) return `Taken back. ${models}`;
  if (receipt.choice === "skip") return "Saved.";
  const argilla = receipt.in_argilla ? "In Argilla." : receipt.counted && "On its way to Argilla.";
  return ["Saved.", countsLine(receipt), argilla, models, whyOf(receipt)].filter(Boolean).join(" ");
}

function whyOf({ reasons, comment }) {
  return [reasons.length ? `Because: ${reasons.join(", ")}.` : "", comment ? `“${comment}”` : ""].filter(Boolean).join(" ");
}

function undoButton(receipt, item) {
  const button = make("button", { type: "button", className: "vt-tool" }, "Undo");
  button.ariaLabel = `Undo this vote: ${item.firstChild.textContent}`;
  button.addEventListener("click", async () => {
    button.disabled = true;
    const answer = await ask("DELETE", `votes/${encodeURIComponent(receipt.id)}`);
    if (answer.status !== 200) {
      button.disabled = false;
      return sayMine(answer.status ? `Not taken back: ${detailOf(answer)}` : "Not taken back: the server can’t be reached.");
    }
    tab.past = tab.past.filter((past) => past.vote !== receipt.id);
    keepTab();
    if (amending?.vote === receipt.id) hideLast();
    item.replaceWith(drawReceipt({ ...receipt, ...answer.body }));
    sayMine("Taken back.");
    return loadProgress();
  });
  return button;
}

// ---------------------------------------------------------------- all of them, for good

function askDelete() {
  part("mine-confirm").hidden = false;
  part("mine-keep").focus();
}

async function deleteAll() {
  part("mine-confirm").hidden = true;
  sayMine("Deleting…");
  const answer = await ask("DELETE", "me/votes");
  if (answer.status !== 200) {
    return sayMine(answer.status ? `Nothing was deleted: ${detailOf(answer)}` : "The server can’t be reached, so nothing is known to be deleted: try again.");
  }
  // The server knows this voter no more: votes on their way and pairs that were lent are void.
  for (const entry of [...outbox]) dropEntry(entry);
  forgetPairs();
  hideLast();
  showPair();
  part("mine-list").replaceChildren();
  part("mine-more").hidden = true;
  sayMine(`${answer.body.deleted === 1 ? "1 vote" : `${answer.body.deleted} votes`} deleted. ${answer.body.note}`);
  await refill();
  return loadProgress();
}

function buildMyVotes() {
  part("mine-open").addEventListener("click", openMyVotes);
  part("mine-close").addEventListener("click", () => part("mine").close());
  part("mine-more").addEventListener("click", loadMyVotes);
  part("mine-delete").addEventListener("click", askDelete);
  part("mine-keep").addEventListener("click", () => (part("mine-confirm").hidden = true));
  part("mine-sure").addEventListener("click", deleteAll);
  part("mine-ask").textContent = ASK_DELETE;
}
