// The conversation shown, as the server keeps it, and the list of those that can be opened.

import { ask, remove } from "./api.js";
import { h } from "./dom.js";
import { leave } from "./live.js";
import { notesOf } from "./notes.js";
import { announce, atBottom, attempt, bottom, drawer, notice, redraw } from "./screen.js";
import { el, state } from "./state.js";
import { Talk } from "./talk.js";

const LISTED = 200;
// Two talks that begin alike are told apart by it.
const when = (ms) => new Date(ms).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

let asked = 0;

export async function list() {
  const mine = (asked += 1);
  const found = await attempt(() => ask(`/api/conversations?limit=${LISTED}&search=${encodeURIComponent(el.search.value)}`), { follows: true });
  // What was typed since has an answer of its own, which may have come before.
  if (!found || mine !== asked) return;
  el.history.replaceChildren(...found.map((c) => h("li", {}, h("button", { type: "button", title: c.title,
    "aria-current": c.id === state.talk.id ? "true" : null, onclick: () => open(c.id) }, c.title, h("span", { class: "when" }, when(c.created_ms))))));
  if (found.length === LISTED) el.history.append(h("li", { class: "quiet" }, `The newest ${LISTED}; the search finds older ones.`));
  if (!found.length) el.history.replaceChildren(h("li", { class: "quiet" }, el.search.value ? "Nothing found" : "Nothing yet"));
}

/**
 * Takes the conversation from the server again, which alone knows what is kept, and shows this answer in it. Where the server cannot be
 * reached, what was heard stays on the page until it can. A conversation that was deleted meanwhile, in another tab, is left.
 */
export async function settle(answer) {
  const { talk } = state;
  const data = talk.id && await attempt(() => ask(`/api/conversations/${talk.id}`).catch(gone), { follows: true });
  // Another conversation is shown by now.
  if (state.talk !== talk) return;
  if (data?.gone) {
    fresh();
    notice(data.gone);
    return;
  }
  const told = data !== undefined;
  if (data) {
    state.talk = new Talk(data, talk.chosen);
    const kept = state.talk.byId.get(answer);
    if (kept) {
      state.talk.choose(kept.parent);
      state.talk.choose(kept.id);
    }
  }
  if (!told && state.live?.start) {
    state.live.lost = answer;
    // Nothing more will come: no word is waited for, and no cursor stands behind the last one.
    Object.values(state.live.sides).forEach((side) => { side.done = true; });
    redraw();
    return;
  }
  const follows = atBottom();
  state.live = null;
  redraw();
  if (follows) bottom();
  list();
}

/** Of a conversation that the server does not have any more, what it says. */
function gone(error) {
  if (error.status !== 404) throw error;
  return { gone: error.message };
}

/** Looks whether the server is there again for what was lost on the way. */
export async function lookAgain() {
  notice(null);
  await settle(state.live.lost);
}

/** Whether it could be shown. */
export async function open(id) {
  const data = await attempt(() => ask(`/api/conversations/${id}`));
  if (!data) return false;
  leave();
  Object.assign(state, { talk: new Talk(data), live: null, editing: null, panel: null, notes: notesOf(data.choices), last: null });
  history.replaceState(null, "", `#c=${id}`);
  drawer(false);
  redraw();
  bottom();
  list();
  return true;
}

/** Removes a conversation, for good. */
export async function discard(id) {
  if (!id || !(await attempt(() => remove(`/api/conversations/${id}`)))) return;
  notice(null);
  if (state.talk.id === id) fresh();
  else list();
  announce("The conversation is deleted.");
}

export function fresh() {
  leave();
  Object.assign(state, { talk: new Talk(), live: null, editing: null, panel: null, notes: new Map(), last: null });
  history.replaceState(null, "", location.pathname);
  drawer(false);
  notice(null);
  redraw();
  list();
  el.question.focus();
}
