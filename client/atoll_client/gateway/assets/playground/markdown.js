// Markdown to elements: what models write. No HTML of an answer is ever interpreted.

import { copyButton, h } from "./dom.js";

const INLINE = [
  [/^`([^`\n]+)`/, (found) => h("code", {}, found[1])],
  [/^\*\*(?=\S)([\s\S]+?)\*\*/, (found) => h("strong", {}, ...inline(found[1]))],
  [/^\*(?=\S)([^*\n]+?)\*/, (found) => h("em", {}, ...inline(found[1]))],
  [/^\[([^\]\n]+)\]\((https?:\/\/[^)\s]+)\)/,
    (found) => h("a", { href: found[2], rel: "noreferrer", target: "_blank" }, ...inline(found[1]))],
];

function inline(text) {
  const parts = [];
  let plain = "";
  while (text) {
    const rule = INLINE.find(([pattern]) => pattern.test(text));
    if (!rule) {
      const next = text.slice(1).search(/[`*[]/);
      const count = next < 0 ? text.length : next + 1;
      plain += text.slice(0, count);
      text = text.slice(count);
      continue;
    }
    const found = rule[0].exec(text);
    parts.push(plain, rule[1](found));
    plain = "";
    text = text.slice(found[0].length);
  }
  return [...parts, plain].filter((part) => part !== "");
}

function codeBlock(language, text) {
  const code = h("code", { "data-language": language }, text);
  return h("div", { className: "block" }, h("pre", {}, code), copyButton(() => text));
}

function tableOf(rows) {
  const cells = rows.map((row) => row.replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim()));
  const [head, , ...body] = cells;
  return h("table", {},
    h("thead", {}, h("tr", {}, ...head.map((cell) => h("th", {}, ...inline(cell))))),
    h("tbody", {}, ...body.map((row) => h("tr", {}, ...row.map((cell) => h("td", {}, ...inline(cell)))))));
}

const ITEM = /^\s*(?:[-*+]|(\d+)[.)])\s+(.*)$/;

function listOf(rows) {
  const isOrdered = ITEM.exec(rows[0])[1] !== undefined;
  const items = rows.map((row) => h("li", {}, ...inline(ITEM.exec(row)[2])));
  return h(isOrdered ? "ol" : "ul", isOrdered ? { start: Number(ITEM.exec(rows[0])[1]) } : {}, ...items);
}

/** Elements of a text. An unfinished code block is shown as one. */
export function markdown(text) {
  const rows = text.split("\n");
  const made = [];
  const take = (test) => {
    const taken = [];
    while (rows.length && test(rows[0])) taken.push(rows.shift());
    return taken;
  };
  while (rows.length) {
    const row = rows[0];
    const fence = /^\s*(```+|~~~+)\s*(\S*)/.exec(row);
    const heading = /^(#{1,6})\s+(.*)$/.exec(row);
    if (fence) {
      rows.shift();
      const code = take((one) => !one.trim().startsWith(fence[1]));
      rows.shift();
      made.push(codeBlock(fence[2], code.join("\n")));
    } else if (heading) {
      rows.shift();
      made.push(h(`h${Math.min(6, heading[1].length + 2)}`, {}, ...inline(heading[2])));
    } else if (/^\|.*\|/.test(row) && /^\|?[\s:|-]+\|?$/.test(rows[1] ?? "")) {
      made.push(tableOf(take((one) => one.startsWith("|"))));
    } else if (ITEM.test(row)) {
      made.push(listOf(take((one) => ITEM.test(one))));
    } else if (/^>\s?/.test(row)) {
      const quoted = take((one) => /^>\s?/.test(one)).map((one) => one.replace(/^>\s?/, ""));
      made.push(h("blockquote", {}, ...markdown(quoted.join("\n"))));
    } else if (!row.trim()) {
      rows.shift();
    } else {
      const starts = (one) => !one.trim() || /^\s*(```|~~~|#{1,6}\s|>)/.test(one) || ITEM.test(one);
      const paragraph = [rows.shift(), ...take((one) => !starts(one))];
      made.push(h("p", {}, ...inline(paragraph.join("\n"))));
    }
  }
  return made;
}
