// The page: who listens to what, and how it begins.

import { allow, enter } from "./access.js";
import * as answering from "./answering.js";
import { ask } from "./api.js";
import { discard, fresh, list, lookAgain, open } from "./conversations.js";
import { onKey } from "./keys.js";
import { stop } from "./live.js";
import { act, attempt, drawer, grow, redraw } from "./screen.js";
import { fill, remember } from "./settings.js";
import { el, state } from "./state.js";
import { dress } from "./view.js";
import * as votes from "./votes.js";

const touched = matchMedia("(hover: none) and (pointer: coarse)");
const wanted = () => location.hash.match(/^#c=([0-9a-f-]{36})$/)?.[1];

async function begin() {
  const known = await attempt(() => ask("/api/state"));
  if (!known) return;
  state.tags = known.tags;
  state.consent = el["consent-level"].value = known.consent.level;
  fill(known);
  if (!wanted() || !(await open(wanted()))) {
    redraw();
    await list();
  }
  if (known.consent.ask) el.consent.showModal();
}

async function enterAndBegin(token) {
  if (await enter(token)) await begin();
}

Object.assign(act, answering, votes, { lookAgain });
dress([[el.send, "send"], [el.stop, "stop"], [el["drawer-open"], "menu"], [el["drawer-close"], "close"], [el["settings-open"], "settings"],
  [el["delete-open"], "bin"]]);
document.addEventListener("keydown", onKey);
el.composer.addEventListener("submit", (event) => { event.preventDefault(); answering.submit(el.question.value); });
el.question.addEventListener("input", grow);
el.question.addEventListener("keydown", (event) => {
  // A phone's keyboard has no other key for a new line; its button sends.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || touched.matches) return;
  event.preventDefault();
  answering.submit(el.question.value);
});
el.stop.addEventListener("click", stop);
// An address of another conversation, put into this tab.
addEventListener("hashchange", () => { if (wanted()) open(wanted()); });
el["new-chat"].addEventListener("click", fresh);
el.search.addEventListener("input", list);
el["drawer-open"].addEventListener("click", () => drawer(true));
el["drawer-close"].addEventListener("click", () => drawer(false));
matchMedia("(min-width: 761px)").addEventListener("change", () => drawer(false));
el.shade.addEventListener("click", () => drawer(false));
el["settings-open"].addEventListener("click", () => el.settings.showModal());
el.settings.addEventListener("close", remember);
// The one that was asked about: another may be shown by the time of the answer, where it was slow to load.
let doomed = null;
el["delete-open"].addEventListener("click", () => {
  doomed = state.talk.id;
  el.delete.returnValue = "";
  el.delete.showModal();
});
el.delete.addEventListener("close", () => { if (el.delete.returnValue === "delete") discard(doomed); });
el["consent-level"].addEventListener("change", () => allow(el["consent-level"].value));
// Closed without a choice, it is asked again the next time.
el.consent.addEventListener("close", () => { if (el.consent.returnValue) allow(el.consent.returnValue); });
el.model.addEventListener("change", remember);
el.theme.addEventListener("change", remember);
el["login-form"].addEventListener("submit", (event) => { event.preventDefault(); enterAndBegin(el.token.value); });

const token = location.hash.match(/^#token=([!-~]+)$/)?.[1];
if (token) {
  history.replaceState(null, "", location.pathname);
  enterAndBegin(token);
} else {
  begin();
}
