// Elements, and the parts that several views have.

/** An element with properties, attributes (aria-*, data-*, role, for) and children. */
export function h(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (key in made && !key.includes("-")) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** An element of SVG with attributes. */
export function s(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function field(text, control) {
  return h("label", {}, text, control);
}

/** A choice of models; null if there is none. */
export function modelPicker(models) {
  if (!models.length) return null;
  return h("select", { name: "model" },
    ...models.map((model) => h("option", { value: model.id }, `${model.id} (${model.root})`)));
}

export function copyButton(text) {
  const button = h("button", { type: "button" }, "Copy");
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  return button;
}

/** A row with a label, a share of 1 and a number. */
export function bar(label, share, shown) {
  const meter = h("meter", { min: 0, max: 1, value: Math.min(1, Math.max(0, share)), "aria-label": shown });
  return h("div", { className: "bar" }, h("span", {}, label), meter, h("span", {}, shown));
}

export const lines = (text) => text.split("\n").filter((line) => line.trim());

/** A form that asks, shows that it is waiting, and what went wrong. `ask(values, out, signal)`. */
export function asking(children, label, ask, extra = []) {
  const send = h("button", { className: "main" }, label);
  const stop = h("button", { type: "button", disabled: true }, "Stop");
  const problem = h("p", { className: "error", role: "alert" });
  const out = h("section", { "aria-live": "polite", className: "result" });
  const form = h("form", {}, ...children, h("div", { className: "row" }, send, stop, ...extra), problem, out);
  form.onsubmit = async (event) => {
    event.preventDefault();
    const control = new AbortController();
    stop.onclick = () => control.abort();
    [send.disabled, stop.disabled] = [true, false];
    problem.textContent = "";
    form.dataset.state = "waiting";
    try {
      const found = await ask(Object.fromEntries(new FormData(form)), control.signal);
      out.replaceChildren(...[found].flat());
      form.dataset.state = "done";
    } catch (error) {
      form.dataset.state = "failed";
      if (error.name !== "AbortError") problem.textContent = error.message;
    }
    [send.disabled, stop.disabled] = [false, true];
  };
  return form;
}
