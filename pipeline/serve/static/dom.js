// Elements from names, attributes and children. Text is always a text node: nothing that anybody said is ever read as HTML.

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Whether the text is on the clipboard now. A page that came over plain http from another machine has none. */
export async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

export const find = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";
const UP = "M7 10v10H4V10h3zm0 0 4-7c1.7 0 2.6 1.2 2.3 2.7L12.6 9H19c1 0 1.7.9 1.5 1.9l-1.4 7.4c-.2 1-1 1.7-2 1.7H7";
const PATHS = {
  up: UP,
  down: UP,
  retry: "M20 11a8 8 0 1 0-2.3 6M20 5v6h-6",
  edit: "M4 20h4L19 9l-4-4L4 16v4z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  previous: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
  send: "M12 20V5M5 12l7-7 7 7",
  stop: "M7 7h10v10H7z",
  menu: "M4 6h16M4 12h16M4 18h16",
  bin: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13M10 11v5M14 11v5",
  close: "M6 6l12 12M18 6L6 18",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  if (name === "down") svg.setAttribute("class", "flipped");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

export function iconButton(name, label, onclick, attributes = {}) {
  return h("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}
