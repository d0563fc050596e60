// What a conversation looks like. Every element is built anew from the state; what was focused is focused again.

import { h, icon, iconButton } from "./dom.js";
import { markdown } from "./markdown.js";

const CHOICES = [
  ["left", "A is better", "1"],
  ["right", "B is better", "2"],
  ["tie", "Equally good", "3"],
  ["both_bad", "Both bad", "4"],
];
const ENDS = { length: "cut off", stopped: "stopped", error: "broke off" };

/** Fills the element with the talk. `act` holds a function for everything that a person can do. */
export function draw(element, state, act) {
  const focused = element.contains(document.activeElement) && document.activeElement !== element ? document.activeElement : null;
  const path = state.talk.path();
  const shown = state.live ? path.slice(0, state.live.keep) : path;
  const parts = shown.map((message) => (message.author === "human" ? question(message, state, act) : answer(message, state, act)));
  if (state.live) parts.push(...live(state, act));
  else if (shown.at(-1)?.author === "human") {
    parts.push(h("p", { class: "quiet" }, "No answer yet. ", button("answer", "Answer it", () => act.retry(shown.at(-1).id))));
  }
  if (!parts.length) parts.push(welcome(state));
  else if (state.talk.systemPrompt) parts.unshift(h("p", { class: "quiet system" }, "System prompt: ", state.talk.systemPrompt));
  element.replaceChildren(...parts);
  if (focused) successor(element, focused.dataset.key ?? "").focus({ preventScroll: true });
}

/** Where the focus goes on: to the same control, else to the vote or the pen of the same turn, else to the conversation as a whole. */
function successor(element, key) {
  const of = (name) => element.querySelector(`[data-key="${CSS.escape(name)}"]`);
  const turn = key.split(":")[0];
  const pressed = [1, -1].map((value) => of(`${turn}:${value}`)).find((thumb) => thumb?.getAttribute("aria-pressed") === "true");
  return of(key) ?? pressed ?? of(`${turn}:edit`) ?? element;
}

/** The words of an answer under way, without touching what stands around them. */
export function say(side) {
  const said = markdown(side.text);
  // Behind the last word, not on a line of its own.
  if (!side.done) (said.at(-1)?.tagName === "P" ? said.at(-1) : { append: (it) => said.push(it) }).append(h("span", { class: "cursor" }));
  side.body?.replaceChildren(...said);
  side.head?.replaceChildren(waitingText(side));
}

const KEPT = {
  local: "Your thumbs, choices and corrections are kept on this server and stay in this chat.",
  train: "Your thumbs, choices and corrections are kept on this server, and train the next round.",
  publish: "Your thumbs, choices and corrections are kept on this server, train the next round, and may be part of exports.",
};

function welcome(state) {
  const prompt = state.systemPrompt ? h("p", { class: "quiet" }, "System prompt: ", state.systemPrompt) : null;
  return h("div", { class: "welcome" }, h("h2", {}, "What shall we talk about?"), h("p", { class: "quiet" },
    KEPT[state.consent] ?? ""), prompt);
}

function question(message, state, act) {
  if (state.editing === message.id) return editor(message, "Ask this instead", act);
  return h("article", { class: "question", "aria-label": "You" },
    h("div", { class: "said plain" }, message.content),
    h("div", { class: "tools" }, versions(message, state, act), tool("edit", "Edit and ask again", message, () => act.edit(message.id))));
}

/** Whether an answer is the model's, and so one to vote on. */
export const takesThumb = (message) => message?.author === "model" && message.finish !== "error";

function answer(message, state, act) {
  if (state.editing === message.id) return editor(message, "Keep as my answer", act);
  const by = message.author === "human-edit" ? "your wording" : (message.model ?? "another model");
  const body = h("div", { class: "said" }, message.content.trim() ? markdown(message.content) : h("p", { class: "quiet" }, "(an empty answer)"));
  const thumbs = takesThumb(message) && [thumb(message, 1, act), thumb(message, -1, act)];
  const why = message.rating !== 0 && state.panel !== message.id;
  const note = noteOn(message, state);
  return h("article", { class: "answer", "aria-label": `Answer, ${by}` },
    h("div", { class: "by" }, by, message.finish in ENDS && h("span", { class: "quiet" }, ` · ${ENDS[message.finish]}`)),
    body,
    h("div", { class: "tools" }, thumbs,
      tool("retry", "Another answer", message, () => act.retry(message.parent)),
      tool("edit", "Write it better", message, () => act.edit(message.id)),
      tool("copy", "Copy", message, () => act.copy(message.content)),
      versions(message, state, act),
      h("span", { class: "quiet figures" }, figures(message)),
      why && button(`${message.id}:why`, said(message), () => act.reasons(message), { class: "why", title: "Reasons for the vote" })),
    state.panel === message.id && message.rating !== 0 && reasons(message, state, act),
    note && h("p", { class: "note" }, note.text, " ", note.comparison && button(`${message.id}:takeback`, "Take it back", () => act.takeBack(message.parent))));
}

/** The choice that this answer was one side of, and which side; other versions have no part in it. */
function noteOn(message, state) {
  const note = state.notes.get(message.parent);
  const letter = { [note?.answers.left]: "A", [note?.answers.right]: "B" }[message.id];
  return letter && { ...note, text: note.comparison ? `${note.text} This is ${letter}.` : note.text };
}

/** What was said with a thumb, or that something can be. */
const said = (message) => [...message.tags, message.comment].filter(Boolean).join(" · ") || "Why?";

function figures(message) {
  if (!message.tokens) return "";
  const speed = message.total_ms ? ` · ${(message.tokens / (message.total_ms / 1000)).toFixed(1)} a second` : "";
  return `${message.tokens} tokens${speed}`;
}

function thumb(message, value, act) {
  const pressed = message.rating === value;
  return iconButton(value > 0 ? "up" : "down", value > 0 ? "Good answer" : "Bad answer", () => act.vote(message.id, pressed ? 0 : value),
    { "aria-pressed": String(pressed), "data-key": `${message.id}:${value}` });
}

function tool(name, label, message, onclick) {
  return iconButton(name, label, onclick, { "data-key": `${message.id}:${name}` });
}

function button(key, label, onclick, attributes = {}) {
  return h("button", { type: "button", "data-key": key, onclick, ...attributes }, label);
}

function versions(message, state, act) {
  const all = state.talk.versions(message.parent);
  if (all.length < 2) return null;
  const at = all.indexOf(message);
  const step = (by, name, label) => iconButton(name, label, () => act.choose(all[at + by].id),
    { disabled: !all[at + by], "data-key": `${message.parent}:${name}` });
  return h("span", { class: "versions", role: "group", "aria-label": "Versions" }, step(-1, "previous", "Version before"),
    h("span", {}, `${at + 1}/${all.length}`), step(1, "next", "Version after"));
}

function reasons(message, state, act) {
  const down = message.rating < 0;
  const draft = state.draft;
  const tags = state.tags.map((tag) => {
    const has = draft.tags.includes(tag);
    return button(`${message.id}:tag:${tag}`, tag, () => act.tag(tag), { class: "tag", "aria-pressed": String(has) });
  });
  const comment = h("textarea", { rows: "2", placeholder: down ? "What would have been better?" : "What was good?",
    "aria-label": "Comment", "data-key": `${message.id}:comment`, oninput: (event) => { draft.comment = event.target.value; } });
  comment.value = draft.comment;
  return h("div", { class: "reasons", role: "group", "aria-label": "Why" },
    down && h("div", { class: "tags" }, tags), comment,
    h("div", { class: "buttons" }, button(`${message.id}:save`, "Save", () => act.saveReasons(), { class: "main" }),
      down && message.finish !== "stopped" && button(`${message.id}:second`, "Compare with a second answer", () => act.second(message)),
      button(`${message.id}:close`, "Close", () => act.closePanel())));
}

function editor(message, label, act) {
  const area = h("textarea", { rows: "4", "aria-label": label, "data-key": `${message.id}:editor` });
  area.value = message.content.trim();
  return h("form", { class: "editor", onsubmit: (event) => { event.preventDefault(); act.saveEdit(message, area.value); } },
    area, h("div", { class: "buttons" }, h("button", { class: "main", "data-key": `${message.id}:keep` }, label), button(`${message.id}:cancel`, "Cancel", () => act.edit(null))));
}

function live(state, act) {
  const { asked, by, sides, start, over, lost } = state.live;
  // The empty tools keep the place of those that come with the end: nothing jumps then.
  const parts = asked ? [h("article", { class: "question", "aria-label": "You" }, h("div", { class: "said plain" }, asked), h("div", { class: "tools" }))] : [];
  if (!start?.duel) {
    return [...parts, h("article", { class: "answer", "aria-label": "Answer under way" }, h("div", { class: "by" }, start ? by : "\u00a0"), side(sides.only),
      lost ? missing(act) : h("div", { class: "tools" }))];
  }
  parts.push(h("section", { class: "duel", "aria-label": "Two answers to choose from" },
    h("h2", {}, "Which answer is better?"),
    h("div", { class: "pair" }, ["left", "right"].map((name, n) =>
      h("article", { class: "answer", "aria-label": `Answer ${"AB"[n]}` }, h("div", { class: "letter" }, "AB"[n]), side(sides[name])))),
    h("div", { class: "buttons choices" },
      CHOICES.map(([winner, label, key]) => button(`choice:${winner}`, [label, " ", h("kbd", {}, key)], () => act.decide(winner), { disabled: !over })),
      button("choice:skip", "Skip", () => act.decide("skip"), { disabled: !over })),
    lost && missing(act)));
  return parts;
}

const missing = (act) => h("p", { class: "quiet" }, "The server has kept what was said, and cannot be reached now. ", button("look", "Look again", () => act.lookAgain()));

function side(it) {
  it.head = h("div", { class: "quiet" });
  it.body = h("div", { class: "said" });
  say(it);
  return [it.head, it.body];
}

function waitingText(it) {
  if (it.failed) return it.failed;
  if (it.text || it.done) return "";
  return it.position ? `waiting, ${it.position} before this one` : "thinking";
}

export function dress(buttons) {
  for (const [element, name] of buttons) element.replaceChildren(icon(name));
}
