// How answers are drawn and how the page looks: the settings, kept in this browser.

import { h } from "./dom.js";
import { notice, redraw } from "./screen.js";
import { el, state } from "./state.js";

const NUMBERS = ["temperature", "top-p", "max-tokens"];
const REMEMBERED = [...NUMBERS, "compare", "other-model", "theme", "model", "system-prompt"];

/** Whether a number cannot be used. Between the steps of its arrows it can: 0.65 is a temperature. */
const wrong = ({ validity }) => validity.badInput || validity.rangeUnderflow || validity.rangeOverflow;

export function sampling() {
  const number = (id) => (el[id].value === "" || wrong(el[id]) ? null : Number(el[id].value));
  return { model: el.model.value, temperature: number("temperature"), top_p: number("top-p"), max_new_tokens: number("max-tokens") };
}

/** Whether now and then two answers are drawn, and by whom the second. */
export const chance = () => ({ compare: el.compare.value, other_model: el["other-model"].value || null });

export function remember() {
  // A number that cannot be used gives way to the one that was there, and that is said: nothing is drawn with another than is shown.
  const bad = NUMBERS.filter((id) => wrong(el[id]));
  for (const id of bad) el[id].value = state.numbers[id];
  notice(bad.map((id) => `${el[id].labels[0].firstChild.data.trim()} goes from ${el[id].min} to ${el[id].max || "any number"}; it stays ${el[id].value}.`).join(" "));
  noteNumbers();
  state.systemPrompt = el["system-prompt"].value;
  document.documentElement.dataset.theme = el.theme.value;
  try {
    localStorage.setItem("settings", JSON.stringify(Object.fromEntries(REMEMBERED.map((id) => [id, el[id].value]))));
  } catch {
    // A browser that keeps nothing: they hold until the page is left.
  }
  if (!state.live) redraw();
}

/** What was set here before; nothing where the browser keeps nothing, or something else stands there. */
function remembered() {
  try {
    return JSON.parse(localStorage.getItem("settings")) ?? {};
  } catch {
    return {};
  }
}

const noteNumbers = () => { state.numbers = Object.fromEntries(NUMBERS.map((id) => [id, el[id].value])); };

/** Fills the menus with what the server has (`/api/state`), and the fields with what was set here before. */
export function fill(known) {
  const option = (value, label = value) => h("option", { value }, label);
  el.model.replaceChildren(...known.models.map((model) => option(model)));
  el["other-model"].replaceChildren(option("", "the same model"), ...known.models.map((model) => option(model)));
  el["max-tokens"].max = known.max_answer_tokens;
  const kept = remembered();
  const defaults = { temperature: known.temperature, "top-p": 1, "max-tokens": known.max_new_tokens, compare: "auto", "other-model": "", theme: "", model: known.model,
    "system-prompt": "" };
  for (const id of REMEMBERED) {
    el[id].value = kept[id] ?? defaults[id];
    // A model that this run does not have, or a menu that has changed.
    if ((el[id].value === "" && defaults[id] !== "") || (NUMBERS.includes(id) && wrong(el[id]))) el[id].value = defaults[id];
  }
  noteNumbers();
  state.systemPrompt = el["system-prompt"].value;
  document.documentElement.dataset.theme = el.theme.value;
}
