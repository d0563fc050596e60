// The answer under way, or the two of a choice: heard piece by piece, stopped, or left behind.

import { ask } from "./api.js";
import { atBottom, bottom, busy, redraw } from "./screen.js";
import { el, state } from "./state.js";
import { say } from "./view.js";

/** What is shown of an answer before its first word, under the first `keep` turns; `asked` is a question that is new, `by` who answers. */
export function blank(asked, keep, by) {
  const side = () => ({ text: "", done: false, position: 0, failed: null, finish: null });
  return { asked, keep, by, sides: { only: side(), left: side(), right: side() }, start: null, over: false, lost: null };
}

/** Whether two whole answers are there: nothing is learned from one that was stopped. */
export const canChoose = (live) => [live.sides.left, live.sides.right].every((side) => !side.failed && side.finish !== "stopped" && side.text.trim());

export function hear(event) {
  const live = state.live;
  if (event.type === "start") {
    live.start = event;
    state.talk.id = event.conversation;
    history.replaceState(null, "", `#c=${event.conversation}`);
    redraw();
    // Both grow at once: following the lower one would carry the upper one away.
    if (event.duel) el.talk.querySelector(".duel").scrollIntoView({ block: "start" });
  } else if (event.type === "end") {
    live.over = true;
  } else {
    const side = live.sides[event.side];
    if (event.type === "text") side.text += event.text;
    if (event.type === "waiting") side.position = event.position;
    if (event.type === "failed") side.failed = event.message;
    if (event.type === "done") side.finish = event.finish;
    if (event.type === "done" || event.type === "failed") side.done = true;
    const follows = !live.start?.duel && atBottom();
    say(side);
    if (follows) bottom();
  }
}

export async function stop() {
  if (!state.abort) return;
  const { abort, live } = state;
  for (const id of Object.values(live.start?.answers ?? {})) ask("/api/stop", { answer: id }).catch(() => {});
  // Stopped, the stream ends by itself; without a word from the server it is cut.
  setTimeout(() => { if (state.abort === abort) abort.abort(); }, 2000);
}

/** Ends what is drawn for the conversation shown; the server keeps what was said of it. */
export function leave() {
  if (!state.abort) return;
  state.abort.abort();
  Object.assign(state, { abort: null, live: null });
  busy(false);
}
