// What can be done without a pointer. In a field a letter is a letter.

import { edit, retry } from "./answering.js";
import { fresh } from "./conversations.js";
import { stop } from "./live.js";
import { drawer } from "./screen.js";
import { el, state } from "./state.js";
import { takesThumb } from "./view.js";
import { closePanel, decide, undo, vote } from "./votes.js";

const KEYS = {
  g: () => thumb(1),
  b: () => thumb(-1),
  u: undo,
  r: () => state.talk.lastAnswer() && retry(state.talk.lastAnswer().parent),
  n: fresh,
  "/": () => el.question.focus(),
};
const CHOICE_KEYS = { 1: "left", 2: "right", 3: "tie", 4: "both_bad" };

function thumb(value) {
  const answer = state.talk.lastAnswer();
  if (takesThumb(answer)) vote(answer.id, value);
}

function escape() {
  if (state.abort) stop();
  else if (document.body.classList.contains("drawer-open")) drawer(false);
  else if (state.editing) edit(null);
  else if (state.panel) closePanel();
  else document.activeElement?.blur();
}

export function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    escape();
    return;
  }
  // While a choice waits, an empty question leaves the digits to it.
  const typing = event.target.matches("input, textarea, select");
  const choosing = state.live?.over && CHOICE_KEYS[event.key] && (!typing || (event.target === el.question && !el.question.value));
  if (choosing) {
    event.preventDefault();
    decide(CHOICE_KEYS[event.key]);
  } else if (!typing && KEYS[event.key] && (!state.live || event.key === "n" || event.key === "/")) {
    event.preventDefault();
    KEYS[event.key]();
  }
}
