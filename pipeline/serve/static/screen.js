// Showing what the state holds, and telling what happens: on the page, and to who listens to it.

import { ServerError } from "./api.js";
import { el, state } from "./state.js";
import { draw } from "./view.js";

/** What a person can do with what is drawn; `app.js` puts all of it in. */
export const act = {};

export function redraw() {
  draw(el.talk, state, act);
  el["delete-open"].hidden = !state.talk.id;
  const begins = state.talk.path()[0]?.content.trim().split("\n")[0].slice(0, 60);
  document.title = begins ? `${begins} · Thumbloop` : "Thumbloop";
}

export const announce = (text) => { el.status.textContent = text; };

export function notice(text) {
  el.notice.hidden = !text;
  el.notice.replaceChildren(text ?? "");
  if (text) announce(text);
}

/** Runs what may fail, and says so where it does. What was told before gives way to it, unless it only `follows` something else. */
export async function attempt(work, { follows = false } = {}) {
  if (!follows) notice(null);
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (error instanceof ServerError && error.status === 401) askToken();
    else notice(error instanceof ServerError ? error.message : "Something failed in the page; reload it.");
    if (!(error instanceof ServerError)) console.error(error.name);
    return undefined;
  }
}

export function askToken() {
  if (!el.login.open) el.login.showModal();
}

export const atBottom = () => el.talk.scrollHeight - el.talk.scrollTop - el.talk.clientHeight < 80;
export const bottom = () => { el.talk.scrollTop = el.talk.scrollHeight; };

/** Whether an answer is under way. */
export function busy(is) {
  el.send.hidden = is;
  el.stop.hidden = !is;
  el.talk.setAttribute("aria-busy", String(is));
  if (is) announce("The answer begins.");
}

/** The field of the question grows with it, up to a height from which it scrolls. */
export function grow() {
  el.question.style.height = "auto";
  el.question.style.height = `${Math.min(el.question.scrollHeight, 240)}px`;
}

/** The list of conversations, where it lies over the page: what is behind it cannot be reached meanwhile, and has the focus again after it. */
export function drawer(opened) {
  const inside = el.drawer.contains(document.activeElement);
  document.body.classList.toggle("drawer-open", opened);
  el.shade.hidden = !opened;
  el.main.inert = opened;
  el["drawer-open"].setAttribute("aria-expanded", String(opened));
  if (opened) el["drawer-close"].focus();
  // Beside the page, on a wide screen, it stays, and the focus in it.
  else if (inside && getComputedStyle(el["drawer-open"]).display !== "none") el["drawer-open"].focus();
}
