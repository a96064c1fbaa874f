// "Show as code": a view's last request in the words of several clients.

import { last } from "./api.js";
import { copyButton, h } from "./dom.js";

/** A JSON value as Python writes it. */
export function python(value) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${python(one)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

const keywords = (values) =>
  Object.entries(values).map(([key, value]) => `    ${key}=${python(value)},\n`).join("");

function without(body, ...names) {
  return Object.fromEntries(Object.entries(body).filter(([key]) => !names.includes(key)));
}

const isChat = (request) => request.route === "v1/chat/completions";
const base = () => new URL(".", location.href).href.replace(/\/$/, "");

function curl({ model, route, body }) {
  const data = JSON.stringify(body).replaceAll("'", "'\\''");
  return `curl ${body.stream ? "-N " : ""}${base()}/${model}/${route} \\\n`
    + "  -H 'content-type: application/json' -H \"authorization: Bearer $ATOLL_API_KEY\" \\\n"
    + `  -d '${data}'\n`;
}

function openai(request) {
  const { model, route, body } = request;
  const head = "import os\n\nfrom openai import OpenAI\n\n"
    + `client = OpenAI(base_url="${base()}/v1", api_key=os.environ.get("ATOLL_API_KEY", "none"))\n`;
  if (route === "embed") {
    return `${head}answer = client.embeddings.create(model=${python(model)}, input=${python(body.inputs)})\n`
      + "vectors = [one.embedding for one in answer.data]\nprint(len(vectors), len(vectors[0]))\n";
  }
  if (!isChat(request)) return null;
  const call = `client.chat.completions.create(\n    model=${python(model)},\n${keywords(body)})`;
  if (!body.stream) return `${head}answer = ${call}\nprint(answer.choices[0].message.content)\n`;
  return `${head}for event in ${call}:\n    if event.choices:\n        print(event.choices[0].delta.content or "", end="", flush=True)\n`;
}

const TENSOR = `import json
import queue

import numpy as np
import tritonclient.grpc as triton


def tensor(name, values, shape):
    made = triton.InferInput(name, shape, "BYTES")
    made.set_data_from_numpy(np.array([v.encode() for v in values], dtype=object).reshape(shape))
    return made


`;
const OUTPUTS = { embed: ["embedding"], rerank: ["score"], predict: ["score"] };

function tritonclient(request) {
  const { model, route, body } = request;
  const client = `# The gateway's gRPC port; Triton's own is 8001.\nclient = triton.InferenceServerClient("${location.hostname}:8081")\n`;
  if (isChat(request)) {
    const options = without(body, "messages", "stream", "stream_options", "logprobs", "top_logprobs");
    return `${TENSOR}answers = queue.Queue()\n${client}client.start_stream(lambda result, error: answers.put(error or result))\n`
      + `messages = ${python(body.messages)}\noptions = ${python(options)}\n`
      + `client.async_stream_infer(\n    ${python(model)},\n    [\n        tensor("messages", [json.dumps(messages)], [1]),\n`
      + `        tensor("sampling_parameters", [json.dumps(options)], [1]),\n    ],\n)\n`
      + "answer = answers.get()\nclient.stop_stream()\nprint(answer.as_numpy(\"text_output\")[0].decode())\n";
  }
  const texts = route === "rerank" ? body.texts : [body.inputs].flat();
  const query = route === "rerank" ? `, tensor("query", [${python(body.query)}], [1, 1])` : "";
  return `${TENSOR}${client}texts = ${python(texts)}\n`
    + `answer = client.infer(${python(model)}, [tensor("text_input", texts, [len(texts), 1])${query}])\n`
    + OUTPUTS[route].map((name) => `print(answer.as_numpy(${python(name)}))\n`).join("");
}

const METHODS = {
  embed: (body) => `print(client.embed(${python(body.inputs)}, model=MODEL).shape)`,
  rerank: (body) => `for rank in client.rerank(${python(body.query)}, ${python(body.texts)}, model=MODEL):\n        print(rank.score, rank.text)`,
  predict: (body) => (body.aggregation_strategy
    ? `print(client.classify_tokens([${python(body.inputs)}], aggregation_strategy="simple", model=MODEL))`
    : `print(client.classify([${python(body.inputs)}], model=MODEL))`),
};

function atollClient(request) {
  const { model, route, body } = request;
  const options = without(body, "messages", "stream", "stream_options", "top_logprobs", "logprobs");
  const call = isChat(request)
    ? `for chunk in client.stream(\n        ${python(body.messages)}, model=MODEL,\n        **${python(options)},\n    ):\n        print(chunk.text, end="", flush=True)`
    : METHODS[route](body);
  return `import os\n\nfrom atoll_client import Client\n\nMODEL = ${python(model)}\n`
    + "headers = [(\"authorization\", f\"Bearer {os.environ.get('ATOLL_API_KEY', '')}\")]\n"
    + `with Client("${base()}", metadata=headers) as client:\n    ${call}\n`;
}

export const CLIENTS = { curl, openai, tritonclient, "atoll-client": atollClient };

/** The clients that have a call for a request, with the code of it. */
export function codeOf(request) {
  const made = Object.entries(CLIENTS).map(([name, write]) => [name, write(request)]);
  return Object.fromEntries(made.filter(([, text]) => text !== null));
}

function show() {
  const dialog = document.getElementById("code-dialog");
  const close = h("button", { type: "button", className: "main" }, "Close");
  close.onclick = () => dialog.close();
  const request = last.get(document.title);
  if (!request) {
    dialog.replaceChildren(h("p", {}, "Nothing has been sent yet."), close);
    dialog.showModal();
    return;
  }
  const found = codeOf(request);
  const code = h("code", {});
  const buttons = Object.keys(found).map((name) => {
    const button = h("button", { type: "button", "aria-pressed": "false" }, name);
    button.onclick = () => {
      code.textContent = found[name];
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      for (const other of buttons) other.classList.toggle("main", other === button);
    };
    return button;
  });
  dialog.replaceChildren(h("div", { className: "row" }, ...buttons),
    h("div", { className: "block" }, h("pre", {}, code), copyButton(() => code.textContent)), close);
  buttons[0].click();
  dialog.showModal();
}

export function codeButton() {
  const button = h("button", { type: "button", "data-code": "" }, "Show as code");
  button.onclick = show;
  return button;
}
