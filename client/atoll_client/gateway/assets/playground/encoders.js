// Views of encoders: vectors, ranks, labels and entities.

import { ask } from "./api.js";
import { codeButton } from "./code.js";
import { asking, bar, field, h, lines, modelPicker, s } from "./dom.js";

const TEXTS = "A man is eating food.\nA man eats a piece of bread.\nThe girl is carrying a baby.\nA cheetah is running behind its prey.";

function view(models, tasks, fields, label, run, none) {
  const fitting = models.filter((model) => tasks.includes(model.task));
  if (!fitting.length) return h("p", {}, none);
  const children = [field("Model", modelPicker(fitting)), ...fields];
  return asking(children, label, (values, signal) => run(values, signal, fitting), [codeButton()]);
}

export function embedView(models) {
  const texts = h("textarea", { name: "texts", rows: 6, required: true, value: TEXTS });
  return view(models, ["embed"], [field("Texts, one per line", texts)], "Embed", async (values, signal) => {
    const rows = lines(values.texts);
    const vectors = await ask(values.model, "embed", { inputs: rows }, signal);
    return [
      h("p", { className: "soft" }, `${vectors.length} vectors of ${vectors[0].length} values`),
      h("h2", {}, "Similarity"), heatMap(rows, cosines(vectors)),
      h("h2", {}, "Map"), map(rows, plane(vectors)),
    ];
  }, "No embedder is served.");
}

function cosines(vectors) {
  const unit = vectors.map((vector) => {
    const length = Math.hypot(...vector) || 1;
    return vector.map((value) => value / length);
  });
  return unit.map((one) => unit.map((other) => one.reduce((sum, value, i) => sum + value * other[i], 0)));
}

function heatMap(texts, values) {
  const rows = values.map((row, i) => h("tr", {}, h("th", { scope: "row", title: texts[i] }, `${i + 1} ${texts[i]}`),
    ...row.map((value) => {
      const cell = h("td", {}, value.toFixed(2));
      cell.style.background = `color-mix(in srgb, var(--accent) ${Math.round(100 * Math.max(0, value) * 0.8)}%, transparent)`;
      return cell;
    })));
  const head = h("tr", {}, h("td"), ...texts.map((text, i) => h("th", { scope: "col", title: text }, `${i + 1}`)));
  return h("table", { className: "heat" }, h("caption", { className: "soft" }, "Cosine of each pair"), head, ...rows);
}

/** The two directions in which the vectors differ most (principal components, power iteration). */
export function plane(vectors) {
  const size = vectors[0].length;
  const mean = Array.from({ length: size }, (_, i) => vectors.reduce((sum, v) => sum + v[i], 0) / vectors.length);
  let rest = vectors.map((vector) => vector.map((value, i) => value - mean[i]));
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const coordinates = [];
  for (let axis = 0; axis < 2; axis += 1) {
    let direction = Array.from({ length: size }, (_, i) => Math.sin(i * (axis + 1) + 1));
    for (let round = 0; round < 50; round += 1) {
      const next = new Array(size).fill(0);
      for (const row of rest) {
        const weight = dot(row, direction);
        row.forEach((value, i) => { next[i] += weight * value; });
      }
      const length = Math.hypot(...next);
      if (!length) break;
      direction = next.map((value) => value / length);
    }
    const found = rest.map((row) => dot(row, direction));
    coordinates.push(found);
    rest = rest.map((row, i) => row.map((value, j) => value - found[i] * direction[j]));
  }
  return vectors.map((_, i) => [coordinates[0][i], coordinates[1][i]]);
}

function map(texts, points) {
  const spread = (axis) => {
    const values = points.map((point) => point[axis]);
    const least = Math.min(...values);
    return { least, range: Math.max(...values) - least || 1 };
  };
  const [x, y] = [spread(0), spread(1)];
  const dots = points.flatMap(([px, py], i) => {
    const [cx, cy] = [30 + (440 * (px - x.least)) / x.range, 20 + (260 * (py - y.least)) / y.range];
    const label = texts[i].length > 40 ? `${texts[i].slice(0, 40)}…` : texts[i];
    const isRight = cx > 300;
    const text = s("text", { x: isRight ? cx - 8 : cx + 8, y: cy + 4, "text-anchor": isRight ? "end" : "start" }, label);
    return [s("circle", { cx, cy, r: 4, class: "dot" }, s("title", {}, texts[i])), text];
  });
  return s("svg", { viewBox: "0 0 500 300", role: "img", "aria-label": "Texts in two dimensions" }, ...dots);
}

export function rerankView(models) {
  const query = h("input", { name: "query", required: true, value: "What is deep learning?" });
  const texts = h("textarea", { name: "texts", rows: 5, required: true, value: "Deep learning is a kind of machine learning.\nCheese is made of milk." });
  const fields = [field("Query", query), field("Texts, one per line", texts)];
  return view(models, ["rerank", "multi_vector"], fields, "Rank", async (values, signal) => {
    const rows = lines(values.texts);
    const ranks = await ask(values.model, "rerank", { query: values.query, texts: rows }, signal);
    const best = Math.max(...ranks.map((rank) => rank.score), 1e-9);
    return ranks.map((rank) => bar(rows[rank.index], rank.score / best, rank.score.toFixed(4)));
  }, "No reranker is served.");
}

export function classifyView(models) {
  const text = h("textarea", { name: "text", rows: 4, required: true, value: "Angela Merkel was born in Hamburg." });
  const tasks = ["classify", "token_classify"];
  return view(models, tasks, [field("Text", text)], "Classify", async (values, signal, fitting) => {
    const isEntities = fitting.find((model) => model.id === values.model).task === "token_classify";
    const body = { inputs: values.text, ...(isEntities ? { aggregation_strategy: "simple" } : {}) };
    const found = await ask(values.model, "predict", body, signal);
    if (!isEntities) return found.map((one) => bar(one.label, one.score, one.score.toFixed(4)));
    if (!found.length) return [h("p", {}, "No entities.")];
    return [h("p", {}, ...highlighted(values.text, found))];
  }, "No classifier is served.");
}

/** The text with its entities marked. Offsets count characters, not UTF-16 units. */
export function highlighted(text, entities) {
  const characters = [...text];
  const parts = [];
  let end = 0;
  for (const one of [...entities].sort((a, b) => a.start - b.start)) {
    if (one.start < end) continue;
    parts.push(characters.slice(end, one.start).join(""));
    parts.push(h("mark", { title: one.score.toFixed(4) }, characters.slice(one.start, one.end).join(""), h("sub", {}, one.entity_group)));
    end = one.end;
  }
  return [...parts, characters.slice(end).join("")];
}
