// Who may come in, and what may be done with what they say.

import { ask } from "./api.js";
import { askToken, attempt, redraw } from "./screen.js";
import { el, state } from "./state.js";

/** Whether the token was right; it is a cookie from then on. */
export async function enter(token) {
  try {
    await ask("/api/login", { token });
  } catch (error) {
    el["login-error"].textContent = error.message;
    askToken();
    return false;
  }
  el["login-error"].textContent = "";
  if (el.login.open) el.login.close();
  return true;
}

/** Keeps what the person allows; what could not be kept is not shown as if it were. */
export async function allow(level) {
  const kept = await attempt(() => ask("/api/consent", { level }));
  if (kept) state.consent = kept.level;
  el["consent-level"].value = state.consent;
  if (!state.live) redraw();
}
