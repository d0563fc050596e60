// Asking: a new question, an old one again, or one in other words.

import { ask, turn } from "./api.js";
import { lookAgain, settle } from "./conversations.js";
import { copied } from "./dom.js";
import { blank, canChoose, hear } from "./live.js";
import { announce, attempt, bottom, busy, grow, notice, redraw } from "./screen.js";
import { chance, sampling } from "./settings.js";
import { el, state } from "./state.js";
import { decide } from "./votes.js";

const SPOKEN = 400;

/** Draws what `body` asks for under the first `keep` turns shown. */
async function run(body, { asked = null, keep }) {
  if (state.abort) return;
  const how = sampling();
  const live = blank(asked, keep, how.model);
  const abort = new AbortController();
  Object.assign(state, { live, abort, editing: null, panel: null });
  busy(true);
  redraw();
  bottom();
  const whole = await attempt(async () => {
    for await (const event of turn({ ...how, ...body }, abort.signal)) if (state.live === live) hear(event);
    return true;
  });
  // Another conversation is shown by now: `leave` has tidied up, and this answer waits in the history.
  if (state.live !== live) return;
  const { start, over } = live;
  state.abort = null;
  busy(false);
  if (whole && over && start.duel && canChoose(live)) {
    announce("Two answers are there. Choose with 1, 2, 3 or 4.");
    redraw();
    // Both from their first words on; the buttons stay in sight below them.
    el.talk.querySelector(".duel").scrollIntoView({ block: "start" });
    return;
  }
  const failed = Object.values(live.sides).find((side) => side.failed)?.failed;
  await settle(start?.answers.only ?? start?.answers.left);
  // Another conversation is shown since, or this one was deleted, which has been said.
  if (start && state.talk.id !== start.conversation) return;
  if (failed) notice(failed);
  else if (whole && !live.lost) announce(ending(start?.duel ? live.sides.left : live.sides.only));
  if (!start && asked) {
    el.question.value ||= asked;
    grow();
  }
}

/** The end of an answer as a screen reader says it: how it ended, and its words; their beginning where they are many. */
function ending({ finish, text }) {
  const how = { stopped: "The answer is stopped.", length: "The answer is cut off at its longest." }[finish] ?? "The answer is complete.";
  return `${how} ${text.length > SPOKEN ? `It begins: ${text.slice(0, SPOKEN)}…` : text}`;
}

/** How many of the turns shown stand before what answers this one, and it. */
const upTo = (id) => state.talk.path().findIndex((message) => message.id === id) + 1;

export async function submit(text) {
  if (!text.trim() || state.abort) return;
  if (state.live?.lost) await lookAgain();
  else if (state.live) await decide("skip");
  // Not known yet what the question would follow: it stays in its field.
  if (state.live) return;
  el.question.value = "";
  grow();
  const path = state.talk.path();
  const place = state.talk.id ? { conversation: state.talk.id, parent: path.findLast((m) => m.author !== "human")?.id ?? null }
    : { system_prompt: state.systemPrompt.trim() ? state.systemPrompt : null };
  const keep = path.at(-1)?.author === "human" ? path.length - 1 : path.length;
  await run({ text, ...place, ...chance() }, { asked: text, keep });
}

export const retry = (question) => run({ question, ...chance() }, { keep: upTo(question) });

export const second = (message) =>
  run({ question: message.parent, against: message.id, other_model: el["other-model"].value || null }, { keep: upTo(message.parent) });

export function choose(id) {
  state.talk.choose(id);
  state.panel = null;
  redraw();
}

export async function copy(text) {
  if (await copied(text)) announce("Copied.");
  else notice("This browser does not let the page copy; mark the words instead.");
}

export function edit(id) {
  state.editing = id;
  redraw();
  el.talk.querySelector(".editor textarea")?.focus();
}

export async function saveEdit(message, text) {
  if (!text.trim()) return;
  if (message.author === "human") {
    await run({ text, conversation: state.talk.id, parent: message.parent, ...chance() }, { asked: text, keep: upTo(message.id) - 1 });
    return;
  }
  const kept = await attempt(() => ask("/api/edit", { original: message.id, text }));
  if (!kept) return;
  state.editing = null;
  await settle(kept.id);
  announce("Your wording is kept.");
}
