// What a person says of answers: thumbs with their reasons, choices, and taking them back.

import { ask } from "./api.js";
import { settle } from "./conversations.js";
import { noteOf, verdict } from "./notes.js";
import { announce, attempt, notice, redraw } from "./screen.js";
import { el, state } from "./state.js";

export async function vote(id, value, tags = [], comment = null) {
  const message = state.talk.byId.get(id);
  const before = { id, value: message.rating, tags: message.tags, comment: message.comment };
  const body = { id, value, tags, ...(comment ? { comment } : {}) };
  if (!(await attempt(() => ask("/v1/feedback", body)))) return false;
  Object.assign(message, { rating: value, tags, comment });
  state.last = { vote: before };
  state.panel = value ? id : null;
  state.draft = { tags: [...tags], comment: comment ?? "" };
  announce(["The vote is kept: bad.", "The vote is taken back.", "The vote is kept: good."][value + 1]);
  redraw();
  el.talk.querySelector(".reasons")?.scrollIntoView({ block: "nearest" });
  return true;
}

/** Takes back what was said last, a thumb or a choice; what came before stays. */
export async function undo() {
  const { vote: thumb, question } = state.last ?? {};
  if (question) await takeBack(question);
  else if (thumb && state.talk.byId.has(thumb.id)) await vote(thumb.id, thumb.value, thumb.tags, thumb.comment);
  else return;
  state.last = null;
  state.panel = null;
  redraw();
}

/** Opens what was said with a thumb, to add to it or change it. */
export function reasons(message) {
  state.panel = message.id;
  state.draft = { tags: [...message.tags], comment: message.comment ?? "" };
  redraw();
  el.talk.querySelector(".reasons textarea")?.focus();
}

export function tag(name) {
  const { tags } = state.draft;
  state.draft.tags = tags.includes(name) ? tags.filter((other) => other !== name) : [...tags, name];
  redraw();
}

export async function saveReasons() {
  const message = state.talk.byId.get(state.panel);
  const first = state.last;
  if (!(await vote(message.id, message.rating, state.draft.tags, state.draft.comment.trim() || null))) return;
  // The thumb and its reasons are one vote to take back.
  if (first?.vote?.id === message.id) state.last = first;
  closePanel();
  announce("The reasons are kept.");
}

export function closePanel() {
  state.panel = null;
  redraw();
}

export async function decide(winner) {
  const { start, over } = state.live ?? {};
  if (!over || !start?.duel) return;
  const said = await attempt(() => ask(`/api/duels/${start.duel.id}`, { winner }).catch(closed));
  // Not reached: the two stay where they are, to choose from when the server is there again.
  if (!said) return;
  const chosen = !said.closed && winner !== "skip";
  if (chosen) {
    state.notes.set(start.question, noteOf(said));
    state.last = { question: start.question };
  }
  await settle(start.answers[winner === "right" ? "right" : "left"]);
  if (state.talk.id !== start.conversation) return;
  if (said.closed) notice(said.closed);
  if (chosen) announce(verdict(said));
}

/** Of a choice that the server does not know any more, as after it was started anew, what it says. */
function closed(error) {
  if (error.status !== 404 && error.status !== 409) throw error;
  return { closed: error.message };
}

export async function takeBack(question) {
  const note = state.notes.get(question);
  if (!note?.comparison) return;
  if (!(await attempt(() => ask(`/api/comparisons/${note.comparison}/withdraw`, {})))) return;
  state.notes.set(question, { text: "The choice is taken back.", answers: note.answers });
  announce("The choice is taken back.");
  redraw();
}
