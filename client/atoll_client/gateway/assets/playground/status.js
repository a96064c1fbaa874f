// The state of the server, from /metrics, every two seconds while it is looked at.

import { get } from "./api.js";
import { h, s } from "./dom.js";

const PERIOD_MS = 2000;
const POINTS = 60;

/** Values by name, summed over the labels; and by model. */
export function parseMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const parts = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!parts) continue;
    const [, name, labels = "", value] = parts;
    const model = /model="([^"]*)"/.exec(labels)?.[1] ?? "";
    const sums = found.get(name) ?? new Map();
    sums.set(model, (sums.get(model) ?? 0) + Number(value));
    found.set(name, sums);
  }
  return found;
}

const total = (found, name) => [...(found.get(name)?.values() ?? [])].reduce((sum, value) => sum + value, 0);

// Title, unit, and the value of two readings that are `seconds` apart.
const CHARTS = [
  ["Tokens generated", "per second", (now, before, seconds) => rate("atoll_output_tokens_total", now, before, seconds)],
  ["Prompt tokens", "per second", (now, before, seconds) => rate("atoll_prompt_tokens_total", now, before, seconds)],
  ["Texts encoded", "per second", (now, before, seconds) => rate("atoll_texts_total", now, before, seconds)],
  ["Requests running", "", (now) => total(now, "atoll_requests_running")],
  ["Requests waiting", "", (now) => total(now, "atoll_requests_waiting")],
  ["KV cache", "% used", (now) => 100 * (total(now, "atoll_kv_blocks_used") / (total(now, "atoll_kv_blocks") || 1))],
];

function rate(name, now, before, seconds) {
  return Math.max(0, total(now, name) - total(before, name)) / seconds;
}

export function statusView(models) {
  const charts = CHARTS.map(([title, unit]) => new Chart(title, unit));
  const problem = h("p", { className: "error", role: "alert" });
  const rows = models.map((model) => h("tr", {}, h("td", {}, model.id), h("td", {}, model.task), h("td", {}, model.root), h("td", {}, model.max_model_len ?? "")));
  const table = h("table", {}, h("thead", {}, h("tr", {}, ...["Model", "Task", "Checkpoint", "Tokens"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, ...rows));
  const element = h("div", {}, table, problem, h("div", { className: "charts" }, ...charts.map((chart) => chart.element)));
  let before = null;
  const read = async () => {
    // The view was left: nothing is asked any more.
    if (before && !element.isConnected) return;
    try {
      const found = parseMetrics(await (await get("metrics")).text());
      const at = performance.now();
      if (before) {
        const seconds = (at - before.at) / 1000;
        CHARTS.forEach(([, , value], i) => charts[i].add(value(found, before.found, seconds)));
      }
      before = { found, at };
      problem.textContent = "";
    } catch (error) {
      problem.textContent = error.message;
    }
    setTimeout(read, PERIOD_MS);
  };
  read();
  return element;
}

class Chart {
  constructor(title, unit) {
    this.unit = unit;
    this.values = [];
    this.line = s("polyline", { class: "line" });
    this.number = h("strong", {}, "–");
    this.svg = s("svg", { viewBox: "0 0 300 90", role: "img", "aria-label": title }, this.line);
    this.element = h("figure", {}, h("figcaption", {}, `${title}: `, this.number), this.svg);
  }

  add(value) {
    this.values = [...this.values, value].slice(-POINTS);
    const most = Math.max(...this.values, 1);
    const points = this.values.map((one, i) => `${5 + (290 * i) / (POINTS - 1)},${85 - (80 * one) / most}`);
    this.line.setAttribute("points", points.join(" "));
    this.number.textContent = `${value < 10 ? value.toFixed(1) : Math.round(value)} ${this.unit}`;
  }
}
