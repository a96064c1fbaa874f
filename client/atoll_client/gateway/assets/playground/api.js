// Requests to the gateway. Addresses are relative, so that the page also works below another path.

import { h } from "./dom.js";

const KEY = "atoll-api-key";

/** The last request of each view, by the page's title: model, route and body. */
export const last = new Map();

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** Asks for the key, once, and keeps it until the tab is closed. */
function askForKey() {
  const dialog = document.getElementById("key-dialog");
  const input = h("input", { type: "password", autocomplete: "off", required: true, "aria-label": "API key" });
  const form = h("form", { method: "dialog" },
    h("p", {}, "This server needs an API key. It is kept until this tab is closed."), input,
    h("p", {}, h("button", { className: "main" }, "Use it")));
  dialog.replaceChildren(form);
  dialog.showModal();
  return new Promise((resolve, reject) => {
    form.onsubmit = () => { sessionStorage.setItem(KEY, input.value); resolve(); };
    dialog.oncancel = () => reject(new Error("no API key was given"));
  });
}

let asked = null;

async function request(path, options, signal) {
  for (;;) {
    const response = await fetch(path, { ...options, signal, headers: { ...options.headers, ...headers() } });
    if (response.status !== 401) return response;
    asked ??= askForKey().finally(() => { asked = null; });
    await asked;
  }
}

async function checked(response) {
  if (response.ok) return response;
  const text = await response.text();
  let reason = text;
  try {
    const { error } = JSON.parse(text);
    reason = error.message || error;
  } catch { /* not JSON: shown as it is */ }
  throw new Error(`${response.status}: ${reason}`);
}

export async function get(path, signal) {
  return checked(await request(path, {}, signal));
}

/** POSTs to a route below the model's name. */
export async function post(model, route, body, signal) {
  last.set(document.title, { model, route, body });
  return checked(await request(`${model}/${route}`, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  }, signal));
}

export const ask = async (...request) => (await post(...request)).json();

export async function models() {
  return (await (await get("v1/models")).json()).data;
}

/** The events of a streamed answer. */
export async function* stream(model, route, body, signal) {
  const response = await post(model, route, { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trim()).join("\n");
      if (!data || data === "[DONE]") continue;
      const found = JSON.parse(data);
      if (found.error) throw new Error(found.error.message || found.error);
      yield found;
    }
  }
}
