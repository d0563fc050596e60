// The page: state, what a person can do, and the keys for it.

import { ask, ServerError, turn } from "./api.js";
import { copied, find, h } from "./dom.js";
import { Talk } from "./talk.js";
import { draw, dress, say, takesThumb } from "./view.js";

const state = {
  talk: new Talk(), live: null, editing: null, panel: null, draft: { tags: [], comment: "" },
  notes: new Map(), tags: [], systemPrompt: "", last: null, abort: null, consent: null,
};
const el = Object.fromEntries(["drawer", "drawer-open", "drawer-close", "shade", "new-chat", "search", "history", "model", "talk", "composer",
  "question", "send", "stop", "status", "notice", "settings", "settings-open", "system-prompt", "temperature", "top-p", "max-tokens", "compare",
  "other-model", "theme", "login", "login-form", "token", "login-error", "consent", "consent-level"].map((id) => [id, find(id)]));

const redraw = () => draw(el.talk, state, act);
const announce = (text) => { el.status.textContent = text; };

function notice(text) {
  el.notice.hidden = !text;
  el.notice.replaceChildren(text ?? "");
  if (text) announce(text);
}

/** Runs what may fail, and says so where it does. What was told before gives way to it, unless it only `follows` something else. */
async function attempt(work, { follows = false } = {}) {
  if (!follows) notice(null);
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (error instanceof ServerError && error.status === 401) login();
    else notice(error instanceof ServerError ? error.message : "Something failed in the page; reload it.");
    if (!(error instanceof ServerError)) console.error(error.name);
    return undefined;
  }
}

// -- talking

/** Whether a number cannot be used. Between the steps of its arrows it can: 0.65 is a temperature. */
const wrong = ({ validity }) => validity.badInput || validity.rangeUnderflow || validity.rangeOverflow;

function sampling() {
  const number = (id) => (el[id].value === "" || wrong(el[id]) ? null : Number(el[id].value));
  return { model: el.model.value, temperature: number("temperature"), top_p: number("top-p"), max_new_tokens: number("max-tokens") };
}

/** Draws what `body` asks for under the first `keep` turns shown. */
async function run(body, { asked = null, keep }) {
  if (state.abort) return;
  const blank = () => ({ text: "", done: false, position: 0, failed: null });
  const live = { asked, keep, sides: { only: blank(), left: blank(), right: blank() }, start: null, over: false };
  const abort = new AbortController();
  Object.assign(state, { live, abort, editing: null, panel: null });
  busy(true);
  redraw();
  bottom();
  const whole = await attempt(async () => {
    for await (const event of turn({ ...sampling(), ...body }, abort.signal)) if (state.live === live) hear(event);
    return true;
  });
  // Another conversation is shown by now: `leave` has tidied up, and this answer waits in the history.
  if (state.live !== live) return;
  const { start, over } = live;
  state.abort = null;
  busy(false);
  if (whole && over && start.duel && canChoose()) {
    announce("Two answers are there. Choose with 1, 2, 3 or 4.");
    redraw();
    // Both from their first words on; the buttons stay in sight below them.
    el.talk.querySelector(".duel").scrollIntoView({ block: "start" });
    return;
  }
  const failed = Object.values(live.sides).find((side) => side.failed)?.failed;
  await settle(start?.answers.only ?? start?.answers.left);
  if (failed) notice(failed);
  else if (whole) announce("The answer is complete.");
  if (!start && asked) {
    el.question.value ||= asked;
    grow();
  }
}

const canChoose = () => ["left", "right"].every((name) => !state.live.sides[name].failed && state.live.sides[name].text.trim());

function hear(event) {
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
    if (event.type === "done" || event.type === "failed") side.done = true;
    const follows = !live.start?.duel && atBottom();
    say(side);
    if (follows) bottom();
  }
}

/** Takes the conversation from the server again, which alone knows what is kept, and shows this answer in it. */
async function settle(answer) {
  await attempt(async () => {
    if (state.talk.id) state.talk = new Talk(await ask(`/api/conversations/${state.talk.id}`), state.talk.chosen);
    const kept = state.talk.byId.get(answer);
    if (kept) {
      state.talk.choose(kept.parent);
      state.talk.choose(kept.id);
    }
  }, { follows: true });
  const follows = atBottom();
  state.live = null;
  redraw();
  if (follows) bottom();
  list();
}

async function submit(text) {
  if (!text.trim() || state.abort) return;
  if (state.live) await act.decide("skip");
  el.question.value = "";
  grow();
  const path = state.talk.path();
  const place = state.talk.id ? { conversation: state.talk.id, parent: path.findLast((m) => m.author !== "human")?.id ?? null }
    : { system_prompt: state.systemPrompt.trim() ? state.systemPrompt : null };
  const keep = path.at(-1)?.author === "human" ? path.length - 1 : path.length;
  await run({ text, ...place, ...chance() }, { asked: text, keep });
}

const chance = () => ({ compare: el.compare.value, other_model: el["other-model"].value || null });

const act = {
  retry(question) {
    const at = state.talk.path().findIndex((message) => message.id === question);
    return run({ question, ...chance() }, { keep: at + 1 });
  },
  second(message) {
    const at = state.talk.path().findIndex((other) => other.id === message.parent);
    return run({ question: message.parent, against: message.id, other_model: el["other-model"].value || null }, { keep: at + 1 });
  },
  choose(id) {
    state.talk.choose(id);
    state.panel = null;
    redraw();
  },
  async copy(text) {
    if (await copied(text)) announce("Copied.");
    else notice("This browser does not let the page copy; mark the words instead.");
  },
  edit(id) {
    state.editing = id;
    redraw();
    el.talk.querySelector(".editor textarea")?.focus();
  },
  async saveEdit(message, text) {
    if (!text.trim()) return;
    if (message.author === "human") {
      const at = state.talk.path().findIndex((other) => other.id === message.id);
      await run({ text, conversation: state.talk.id, parent: message.parent, ...chance() }, { asked: text, keep: at });
      return;
    }
    const kept = await attempt(() => ask("/api/edit", { original: message.id, text }));
    if (!kept) return;
    state.editing = null;
    await settle(kept.id);
    announce("Your wording is kept.");
  },
  async vote(id, value, tags = [], comment = null) {
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
  },
  /** Takes back what was said last, a thumb or a choice; what came before stays. */
  async undo() {
    const { vote, question } = state.last ?? {};
    if (question) await act.takeBack(question);
    else if (vote && state.talk.byId.has(vote.id)) await act.vote(vote.id, vote.value, vote.tags, vote.comment);
    else return;
    state.last = null;
    state.panel = null;
    redraw();
  },
  /** Opens what was said with a thumb, to add to it or change it. */
  reasons(message) {
    state.panel = message.id;
    state.draft = { tags: [...message.tags], comment: message.comment ?? "" };
    redraw();
    el.talk.querySelector(".reasons textarea")?.focus();
  },
  tag(tag) {
    const { tags } = state.draft;
    state.draft.tags = tags.includes(tag) ? tags.filter((other) => other !== tag) : [...tags, tag];
    redraw();
  },
  async saveReasons() {
    const message = state.talk.byId.get(state.panel);
    const first = state.last;
    if (!(await act.vote(message.id, message.rating, state.draft.tags, state.draft.comment.trim() || null))) return;
    // The thumb and its reasons are one vote to take back.
    if (first?.vote?.id === message.id) state.last = first;
    act.closePanel();
    announce("The reasons are kept.");
  },
  closePanel() {
    state.panel = null;
    redraw();
  },
  async decide(winner) {
    const { start, over } = state.live ?? {};
    if (!over || !start?.duel) return;
    const said = await attempt(() => ask(`/api/duels/${start.duel.id}`, { winner }));
    if (said && winner !== "skip") {
      state.notes.set(start.question, noteOf(said));
      state.last = { question: start.question };
    }
    await settle(start.answers[winner === "right" ? "right" : "left"]);
    if (said && winner !== "skip") announce(verdict(said));
  },
  async takeBack(question) {
    const note = state.notes.get(question);
    if (!note?.comparison) return;
    if (!(await attempt(() => ask(`/api/comparisons/${note.comparison}/withdraw`, {})))) return;
    state.notes.set(question, { text: "The choice is taken back.", answers: note.answers });
    announce("The choice is taken back.");
    redraw();
  },
  async stop() {
    if (!state.abort) return;
    const { abort, live } = state;
    for (const id of Object.values(live.start?.answers ?? {})) ask("/api/stop", { answer: id }).catch(() => {});
    // Stopped, the stream ends by itself; without a word from the server it is cut.
    setTimeout(() => { if (state.abort === abort) abort.abort(); }, 2000);
  },
};

/** What stands under the two answers of a choice. */
const noteOf = (said) => ({ text: verdict(said), comparison: said.comparison, answers: said.answers });

/** The choices of a conversation, as the server knows them, under the questions they are about. */
const notesOf = (choices) => new Map(choices.map((said) => [said.question, noteOf(said)]));

function verdict({ winner, models }) {
  const who = models.left === models.right ? `Both were ${models.left}.` : `A was ${models.left}, B was ${models.right}.`;
  return { left: `You chose A. ${who}`, right: `You chose B. ${who}`, tie: `Equally good. ${who}`, both_bad: `Both bad. ${who}` }[winner];
}

// -- around it

const atBottom = () => el.talk.scrollHeight - el.talk.scrollTop - el.talk.clientHeight < 80;
const bottom = () => { el.talk.scrollTop = el.talk.scrollHeight; };

function busy(is) {
  el.send.hidden = is;
  el.stop.hidden = !is;
  el.talk.setAttribute("aria-busy", String(is));
  if (is) announce("The answer begins.");
}

function grow() {
  el.question.style.height = "auto";
  el.question.style.height = `${Math.min(el.question.scrollHeight, 240)}px`;
}

const LISTED = 200;
// Two talks that begin alike are told apart by it.
const when = (ms) => new Date(ms).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

async function list() {
  const found = await attempt(() => ask(`/api/conversations?limit=${LISTED}&search=${encodeURIComponent(el.search.value)}`), { follows: true });
  if (!found) return;
  el.history.replaceChildren(...found.map((c) => h("li", {}, h("button", { type: "button", title: c.title,
    "aria-current": c.id === state.talk.id ? "true" : null, onclick: () => open(c.id) }, c.title, h("span", { class: "when" }, when(c.created_ms))))));
  if (found.length === LISTED) el.history.append(h("li", { class: "quiet" }, `The newest ${LISTED}; the search finds older ones.`));
  if (!found.length) el.history.replaceChildren(h("li", { class: "quiet" }, el.search.value ? "Nothing found" : "Nothing yet"));
}

/** Ends what is drawn for the conversation shown; the server keeps what was said of it. */
function leave() {
  if (!state.abort) return;
  state.abort.abort();
  Object.assign(state, { abort: null, live: null });
  busy(false);
}

async function open(id) {
  const data = await attempt(() => ask(`/api/conversations/${id}`));
  if (!data) return;
  leave();
  Object.assign(state, { talk: new Talk(data), live: null, editing: null, panel: null, notes: notesOf(data.choices), last: null });
  history.replaceState(null, "", `#c=${id}`);
  drawer(false);
  redraw();
  bottom();
  list();
}

function fresh() {
  leave();
  Object.assign(state, { talk: new Talk(), live: null, editing: null, panel: null, notes: new Map(), last: null });
  history.replaceState(null, "", location.pathname);
  drawer(false);
  notice(null);
  redraw();
  list();
  el.question.focus();
}

function drawer(opened) {
  document.body.classList.toggle("drawer-open", opened);
  el.shade.hidden = !opened;
  el["drawer-open"].setAttribute("aria-expanded", String(opened));
  if (opened) el["drawer-close"].focus();
}

const NUMBERS = ["temperature", "top-p", "max-tokens"];
const REMEMBERED = ["temperature", "top-p", "max-tokens", "compare", "other-model", "theme", "model"];

function remember() {
  // A number that cannot be used gives way to the one that was there, and that is said: nothing is drawn with another than is shown.
  const bad = NUMBERS.filter((id) => wrong(el[id]));
  for (const id of bad) el[id].value = state.numbers[id];
  notice(bad.map((id) => `${el[id].labels[0].firstChild.data.trim()} goes from ${el[id].min} to ${el[id].max || "any number"}; it stays ${el[id].value}.`).join(" "));
  state.numbers = Object.fromEntries(NUMBERS.map((id) => [id, el[id].value]));
  state.systemPrompt = el["system-prompt"].value;
  document.documentElement.dataset.theme = el.theme.value;
  localStorage.setItem("settings", JSON.stringify(Object.fromEntries(REMEMBERED.map((id) => [id, el[id].value]))));
  if (!state.live) redraw();
}

function login() {
  if (!el.login.open) el.login.showModal();
}

async function enter(token) {
  try {
    await ask("/api/login", { token });
  } catch (error) {
    el["login-error"].textContent = error.message;
    login();
    return;
  }
  el["login-error"].textContent = "";
  if (el.login.open) el.login.close();
  await begin();
}

/** Keeps what the person allows; what could not be kept is not shown as if it were. */
async function allow(level) {
  const kept = await attempt(() => ask("/api/consent", { level }));
  if (kept) state.consent = kept.level;
  el["consent-level"].value = state.consent;
  if (!state.live) redraw();
}

async function begin() {
  const known = await attempt(() => ask("/api/state"));
  if (!known) return;
  const option = (value, label = value) => h("option", { value }, label);
  state.tags = known.tags;
  state.consent = el["consent-level"].value = known.consent.level;
  el.model.replaceChildren(...known.models.map((model) => option(model)));
  el["other-model"].replaceChildren(option("", "the same model"), ...known.models.map((model) => option(model)));
  el["max-tokens"].max = known.max_answer_tokens;
  const kept = JSON.parse(localStorage.getItem("settings") ?? "{}");
  const defaults = { temperature: known.temperature, "top-p": 1, "max-tokens": known.max_new_tokens, compare: "auto", "other-model": "", theme: "", model: known.model };
  for (const id of REMEMBERED) {
    el[id].value = kept[id] ?? defaults[id];
    // A model that this run does not have, or a menu that has changed.
    if ((el[id].value === "" && defaults[id] !== "") || (NUMBERS.includes(id) && wrong(el[id]))) el[id].value = defaults[id];
  }
  state.numbers = Object.fromEntries(NUMBERS.map((id) => [id, el[id].value]));
  document.documentElement.dataset.theme = el.theme.value;
  const id = location.hash.match(/^#c=([0-9a-f-]{36})$/)?.[1];
  if (id) await open(id);
  else {
    redraw();
    await list();
  }
  if (known.consent.ask) el.consent.showModal();
}

const KEYS = {
  g: () => takesThumb(state.talk.lastAnswer()) && act.vote(state.talk.lastAnswer().id, 1),
  b: () => takesThumb(state.talk.lastAnswer()) && act.vote(state.talk.lastAnswer().id, -1),
  u: () => act.undo(),
  r: () => state.talk.lastAnswer() && act.retry(state.talk.lastAnswer().parent),
  n: fresh,
  "/": () => el.question.focus(),
};
const CHOICE_KEYS = { 1: "left", 2: "right", 3: "tie", 4: "both_bad" };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (state.abort) act.stop();
    else if (document.body.classList.contains("drawer-open")) drawer(false);
    else if (state.editing) act.edit(null);
    else if (state.panel) act.closePanel();
    else document.activeElement?.blur();
    return;
  }
  // In a field a letter is a letter; while a choice waits, an empty question leaves the digits to it.
  const typing = event.target.matches("input, textarea, select");
  const choosing = state.live?.over && CHOICE_KEYS[event.key] && (!typing || (event.target === el.question && !el.question.value));
  if (choosing) {
    event.preventDefault();
    act.decide(CHOICE_KEYS[event.key]);
  } else if (!typing && KEYS[event.key] && (!state.live || event.key === "n" || event.key === "/")) {
    event.preventDefault();
    KEYS[event.key]();
  }
}

dress([[el.send, "send"], [el.stop, "stop"], [el["drawer-open"], "menu"], [el["drawer-close"], "close"], [el["settings-open"], "settings"]]);
document.addEventListener("keydown", onKey);
el.composer.addEventListener("submit", (event) => { event.preventDefault(); submit(el.question.value); });
el.question.addEventListener("input", grow);
el.question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit(el.question.value);
});
el.stop.addEventListener("click", () => act.stop());
el["new-chat"].addEventListener("click", fresh);
el.search.addEventListener("input", list);
el["drawer-open"].addEventListener("click", () => drawer(true));
el["drawer-close"].addEventListener("click", () => { drawer(false); el["drawer-open"].focus(); });
el.shade.addEventListener("click", () => drawer(false));
el["settings-open"].addEventListener("click", () => el.settings.showModal());
el.settings.addEventListener("close", remember);
el["consent-level"].addEventListener("change", () => allow(el["consent-level"].value));
// Closed without a choice, it is asked again the next time.
el.consent.addEventListener("close", () => { if (el.consent.returnValue) allow(el.consent.returnValue); });
el.model.addEventListener("change", remember);
el.theme.addEventListener("change", remember);
el["login-form"].addEventListener("submit", (event) => { event.preventDefault(); enter(el.token.value); });

const token = location.hash.match(/^#token=([!-~]+)$/)?.[1];
if (token) {
  history.replaceState(null, "", location.pathname);
  enter(token);
} else {
  begin();
}
