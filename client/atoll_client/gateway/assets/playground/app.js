// The page: its views, one of which is shown, by the address's fragment.

import { models } from "./api.js";
import { chatView } from "./chat.js";
import { h } from "./dom.js";
import { classifyView, embedView, rerankView } from "./encoders.js";
import { statusView } from "./status.js";
import { structuredView } from "./structured.js";

const VIEWS = {
  chat: ["Chat", chatView, ["generate"]],
  structured: ["Structured output", structuredView, ["generate"]],
  embed: ["Embeddings", embedView, ["embed"]],
  rerank: ["Rerank", rerankView, ["rerank", "multi_vector"]],
  classify: ["Classify", classifyView, ["classify", "token_classify"]],
  status: ["Server", statusView, null],
};

const nav = document.getElementById("views");
const main = document.getElementById("view");
// A view keeps what was written in it while others are looked at.
const made = {};

function fits(tasks, served) {
  return !tasks || served.some((model) => tasks.includes(model.task));
}

function show(served) {
  const known = Object.keys(VIEWS).filter((name) => fits(VIEWS[name][2], served));
  const name = known.includes(location.hash.slice(1)) ? location.hash.slice(1) : known[0];
  nav.replaceChildren(...known.map((one) =>
    h("a", { href: `#${one}`, "aria-current": one === name ? "page" : null }, VIEWS[one][0])));
  // Charts begin anew: they were not fed while they were away.
  if (!made[name] || name === "status") made[name] = VIEWS[name][1](served);
  main.replaceChildren(made[name]);
  document.title = `${VIEWS[name][0]} · Atoll`;
}

try {
  const served = await models();
  if (!served.length) throw new Error("No model is ready yet. Load the page again in a moment.");
  addEventListener("hashchange", () => show(served));
  show(served);
} catch (error) {
  main.replaceChildren(h("p", { className: "error", role: "alert" }, error.message));
}
document.body.dataset.ready = "yes";
