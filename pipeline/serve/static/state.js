// What the page knows, and the elements of index.html that it works with.

import { find } from "./dom.js";
import { Talk } from "./talk.js";

export const state = {
  talk: new Talk(), live: null, editing: null, panel: null, draft: { tags: [], comment: "" },
  notes: new Map(), tags: [], numbers: {}, systemPrompt: "", last: null, abort: null, consent: null,
};

export const el = Object.fromEntries(["main", "drawer", "drawer-open", "drawer-close", "shade", "new-chat", "search", "history", "model", "talk", "composer",
  "question", "send", "stop", "status", "notice", "settings", "settings-open", "delete", "delete-open", "system-prompt", "temperature", "top-p", "max-tokens", "compare",
  "other-model", "theme", "login", "login-form", "token", "login-error", "consent", "consent-level"].map((id) => [id, find(id)]));
