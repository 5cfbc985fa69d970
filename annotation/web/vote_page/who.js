// Who the voter is to this app: nobody by name, or a signed-in account; and the ways in and out.

/** An address of this app from a path that the server named; null for anything else. */
function ownAddress(path) {
  return typeof path === "string" && /^\/(?![/\\])/.test(path) ? pageRoot() + path : null;
}

/** A way to sign in. In somebody's frame it opens beside it: the Hub's own page can't be framed. */
function signInLink(path) {
  const address = ownAddress(path);
  if (!address) return [];
  return [" ", make("a", { href: address, target: window.self === window.top ? "_self" : "_blank" }, "Sign in")];
}

async function signOut(path) {
  const answer = await fetch(ownAddress(path), { method: "POST", redirect: "manual" }).catch(() => null);
  if (!answer) return say("The server can’t be reached, so you are still signed in.");
  return window.location.reload();
}

function signOutButton({ sign_out: path }) {
  const button = make("button", { type: "button", className: "vt-tool" }, "Sign out");
  button.addEventListener("click", () => signOut(path));
  return button;
}

/** Pairs are lent to one voter: whoever signed in or out meanwhile is given others. */
function keepOnlyPairsOf(me) {
  const who = me.name ?? "";
  const changed = tab.who !== undefined && tab.who !== who;
  tab.who = who;
  keepTab();
  if (!changed) return;
  forgetPairs();
  showPair();
  refill();
}

async function loadMe() {
  const answer = await ask("GET", "me");
  if (answer.status !== 200) return;
  const me = answer.body;
  part("who").hidden = !me.signed_in && !ownAddress(me.sign_in);
  if (me.signed_in) part("who").replaceChildren(inert(`Signed in as ${me.name ?? "you"} `), signOutButton(me));
  else part("who").replaceChildren(...signInLink(me.sign_in));
  keepOnlyPairsOf(me);
}
