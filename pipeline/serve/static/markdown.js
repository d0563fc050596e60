// Markdown as far as chat models write it, built as elements. HTML stays text, pictures stay text (a remote picture would tell
// its server what was said), and links lead to http and https only.

import { copied, h } from "./dom.js";

const INLINE = /(`+)([^`](?:.*?[^`])?)\1(?!`)|\*\*(?=\S)(.+?)(?<=\S)\*\*|__(?=\S)(.+?)(?<=\S)__|~~(?=\S)(.+?)(?<=\S)~~|\*(?=[^\s*])(.+?)(?<=[^\s*])\*|(?<![\w_])_(?=[^\s_])(.+?)(?<=[^\s_])_(?!\w)|(?<!!)\[([^\][]+)\]\((https?:\/\/[^\s()<>]+)\)|(https?:\/\/[^\s<>"'`)\]]*[^\s<>"'`)\].,;:!?])/gs;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?: +|$)(.*)$/;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/;
const DIVIDER = /^ *\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *$/;
const DEEPEST = 8;
// Beyond this a line is shown as it is: looking for pairs of marks takes time that grows with its square.
const LONGEST_LINE = 4000;

/** The text as a list of elements. */
export function markdown(text, depth = 0) {
  const lines = text.split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) at += 1;
    else at = block(lines, at, blocks, depth);
  }
  return blocks;
}

/** Adds the block that starts at a line, and returns where the next one does. */
function block(lines, at, blocks, depth) {
  const line = lines[at];
  let found;
  if ((found = line.match(FENCE))) return fence(lines, at, found, blocks);
  if ((found = line.match(HEADING))) {
    // The page has its own first and second headings.
    blocks.push(h(`h${Math.min(6, found[1].length + 2)}`, {}, inline(found[2])));
    return at + 1;
  }
  if (RULE.test(line)) {
    blocks.push(h("hr"));
    return at + 1;
  }
  if (depth < DEEPEST && /^ {0,3}>/.test(line)) {
    const quoted = take(lines, at, (l) => /^ {0,3}>/.test(l));
    blocks.push(h("blockquote", {}, markdown(quoted.map((l) => l.replace(/^ {0,3}> ?/, "")).join("\n"), depth + 1)));
    return at + quoted.length;
  }
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, at, blocks, depth);
  if (line.includes("|") && lines[at + 1]?.includes("-") && DIVIDER.test(lines[at + 1])) return table(lines, at, blocks);
  const said = take(lines, at, (l, n) => l.trim() && (n === 0 || !starts(l)));
  blocks.push(h("p", {}, said.flatMap((l, n) => [n ? h("br") : null, ...inline(l)])));
  return at + said.length;
}

const starts = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || /^ {0,3}>/.test(line);

function take(lines, at, wanted) {
  let end = at;
  while (end < lines.length && wanted(lines[end], end - at)) end += 1;
  return lines.slice(at, end);
}

function fence(lines, at, found, blocks) {
  const closes = new RegExp(`^ {0,3}${found[1][0] === "`" ? "`" : "~"}{${found[1].length},} *$`);
  let end = at + 1;
  while (end < lines.length && !closes.test(lines[end])) end += 1;
  const code = lines.slice(at + 1, end).join("\n");
  const copy = h("button", { type: "button", class: "copy-code" }, "Copy");
  copy.addEventListener("click", async () => {
    copy.textContent = (await copied(code)) ? "Copied" : "Not allowed here";
  });
  const pre = h("pre", { tabindex: "0", "aria-label": found[2] ? `code, ${found[2]}` : "code" }, h("code", {}, code));
  blocks.push(h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, found[2]), copy), pre));
  return end + 1;
}

function list(lines, at, blocks, depth) {
  const first = lines[at].match(ITEM);
  const ordered = /\d/.test(first[2]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const found = lines[end].match(ITEM);
    if (!found || /\d/.test(found[2]) !== ordered) break;
    const inside = [found[3]];
    end += 1;
    while (end < lines.length && (/^ {2,}\S/.test(lines[end]) || (!lines[end].trim() && /^ {2,}\S/.test(lines[end + 1] ?? "")))) {
      inside.push(lines[end].replace(/^ {2,4}/, ""));
      end += 1;
    }
    items.push(h("li", {}, tight(markdown(inside.join("\n"), depth + 1))));
    while (end < lines.length && !lines[end].trim() && ITEM.test(lines[end + 1] ?? "")) end += 1;
  }
  blocks.push(h(ordered ? "ol" : "ul", ordered && first[2] !== "1." ? { start: parseInt(first[2], 10) } : {}, items));
  return end;
}

// An item of one paragraph is shown without a paragraph's space.
const tight = (blocks) => (blocks[0]?.tagName === "P" ? [...blocks[0].childNodes, ...blocks.slice(1)] : blocks);

function table(lines, at, blocks) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const rows = take(lines, at + 2, (l) => l.includes("|"));
  const sides = cells(lines[at + 1]).map((c) => (!c.endsWith(":") ? null : c.startsWith(":") ? "middle" : "end"));
  const head = h("thead", {}, h("tr", {}, cells(lines[at]).map((c, n) => h("th", { scope: "col", class: sides[n] }, inline(c)))));
  const body = h("tbody", {}, rows.map((row) => h("tr", {}, cells(row).map((c, n) => h("td", { class: sides[n] }, inline(c))))));
  blocks.push(h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "table" }, h("table", {}, head, body)));
  return at + 2 + rows.length;
}

function inline(text, depth = 0) {
  if (depth > DEEPEST || text.length > LONGEST_LINE) return [text];
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    parts.push(text.slice(at, found.index));
    at = found.index + found[0].length;
    const [, , code, strong, strong2, struck, em, em2, label, target, bare] = found;
    if (code !== undefined) parts.push(h("code", {}, code));
    else if (strong ?? strong2) parts.push(h("strong", {}, inline(strong ?? strong2, depth + 1)));
    else if (struck) parts.push(h("s", {}, inline(struck, depth + 1)));
    else if (em ?? em2) parts.push(h("em", {}, inline(em ?? em2, depth + 1)));
    else parts.push(link(label ?? bare, target ?? bare));
  }
  parts.push(text.slice(at));
  return parts.filter((part) => part !== "");
}

// A model may name a link as it likes: where it leads is shown with it.
function link(label, target) {
  const shown = h("a", { href: target, rel: "noopener noreferrer nofollow", target: "_blank" }, label);
  return label === target ? shown : h("span", {}, shown, ` (${target})`);
}
