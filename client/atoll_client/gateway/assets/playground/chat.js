// A chat with a generator: conversations, streamed answers, sampling, tokens with probabilities.

import { stream } from "./api.js";
import { Chats } from "./chats.js";
import { codeButton } from "./code.js";
import { copyButton, field, h, modelPicker } from "./dom.js";
import { markdown } from "./markdown.js";

const OPTIONS = [
  ["temperature", "Temperature", { type: "number", min: 0, max: 2, step: 0.1, value: 0.7 }],
  ["top_p", "Top p", { type: "number", min: 0.01, max: 1, step: 0.01, value: 1 }],
  ["max_tokens", "Most tokens", { type: "number", min: 1, step: 1, value: 512 }],
  ["seed", "Seed", { type: "number", min: 0, step: 1, placeholder: "random" }],
];

export function chatView(models) {
  const generators = models.filter((model) => model.task === "generate");
  if (!generators.length) return h("p", {}, "No generator is served.");
  return new ChatView(generators).element;
}

class ChatView {
  constructor(generators) {
    this.chats = new Chats();
    this.list = h("ul", { className: "chats", "aria-label": "Conversations" });
    this.log = h("section", { "aria-label": "Conversation", "aria-live": "polite" });
    this.system = h("textarea", { name: "system", rows: 1, placeholder: "None" });
    this.prompt = h("textarea", { name: "prompt", rows: 3, required: true, "aria-label": "Message", placeholder: "Message" });
    this.send = h("button", { className: "main" }, "Send");
    this.stop = h("button", { type: "button", disabled: true }, "Stop");
    this.problem = h("p", { className: "error", role: "alert" });
    this.form = this.makeForm(modelPicker(generators));
    const fresh = h("button", { type: "button" }, "New conversation");
    fresh.onclick = () => { this.chats.start(); this.show(); this.prompt.focus(); };
    this.element = h("div", { className: "chat" },
      h("aside", {}, fresh, this.list), h("div", {}, this.log, this.form));
    this.show();
  }

  makeForm(picker) {
    const options = OPTIONS.map(([name, label, properties]) =>
      field(label, h("input", { name, ...properties })));
    const shown = h("input", { type: "checkbox", name: "probabilities" });
    shown.style.width = "auto";
    const more = h("details", {}, h("summary", {}, "Settings"), field("Model", picker),
      field("System prompt", this.system), h("div", { className: "row" }, ...options),
      h("label", {}, shown, " Probabilities of tokens"));
    const form = h("form", {}, this.prompt,
      h("div", { className: "row" }, this.send, this.stop, codeButton()), this.problem, more);
    form.onsubmit = (event) => { event.preventDefault(); this.say(this.prompt.value); };
    this.prompt.onkeydown = (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    };
    return form;
  }

  show() {
    const { chats } = this;
    this.system.value = chats.current.system;
    this.list.replaceChildren(...chats.all.map((chat) => {
      const open = h("button", { type: "button", "aria-current": chat === chats.current ? "true" : null }, chat.title);
      open.onclick = () => { chats.current = chat; this.show(); };
      open.onkeydown = (event) => { if (event.key === "Delete") { chats.remove(chat); this.show(); } };
      open.title = `${chat.title} (Delete removes it)`;
      return h("li", {}, open);
    }));
    this.log.replaceChildren(...chats.current.turns.map((turn, i, all) => this.turn(turn, i === all.length - 1)));
  }

  turn(turn, isLast) {
    if (turn.role === "user") return h("article", { className: "turn user" }, turn.content);
    const retry = h("button", { type: "button" }, "Retry");
    retry.onclick = () => this.retry();
    return h("article", { className: "turn" }, ...body(turn),
      h("footer", {}, h("span", {}, turn.note ?? ""), copyButton(() => turn.content), isLast ? retry : null));
  }

  retry() {
    const { turns } = this.chats.current;
    turns.pop();
    const { content } = turns.pop();
    this.say(content);
  }

  async say(content) {
    if (this.send.disabled) return;
    const chat = this.chats.current;
    chat.system = this.system.value;
    const turn = { role: "assistant", content: "", reasoning: "", tokens: [], note: "" };
    const before = [...chat.turns];
    chat.turns.push({ role: "user", content }, turn);
    this.problem.textContent = "";
    this.prompt.value = "";
    this.busy(true);
    this.show();
    try {
      await this.answer(chat, turn);
    } catch (error) {
      if (error.name !== "AbortError") this.problem.textContent = error.message;
      // A refused message goes back to where it can be changed; what was broken off has been said.
      if (!turn.content && !turn.reasoning) {
        chat.turns = before;
        this.prompt.value = content;
      }
    }
    this.busy(false);
    this.chats.save();
    this.show();
  }

  busy(is) {
    [this.send.disabled, this.stop.disabled] = [is, !is];
    this.form.dataset.state = is ? "waiting" : "done";
  }

  async answer(chat, turn) {
    const control = new AbortController();
    this.stop.onclick = () => control.abort();
    const values = new FormData(this.form);
    const body = { messages: messages(chat), stream_options: { include_usage: true } };
    for (const [name] of OPTIONS) if (values.get(name)) body[name] = Number(values.get(name));
    if (values.get("probabilities")) Object.assign(body, { logprobs: true, top_logprobs: 5 });
    const speed = new Speed();
    for await (const event of stream(values.get("model"), "v1/chat/completions", body, control.signal)) {
      const choice = event.choices?.[0];
      turn.content += choice?.delta?.content ?? "";
      turn.reasoning += choice?.delta?.reasoning_content ?? "";
      turn.tokens.push(...(choice?.logprobs?.content ?? []));
      turn.note = speed.note(event, choice);
      this.redraw(turn);
    }
  }

  redraw(turn) {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = null;
      this.log.lastElementChild?.replaceWith(this.turn(turn, true));
    });
  }
}

function messages(chat) {
  const said = chat.turns.slice(0, -1).map(({ role, content }) => ({ role, content }));
  return chat.system ? [{ role: "system", content: chat.system }, ...said] : said;
}

/** Tokens per second after the first, and why the answer ended. */
class Speed {
  note(event, choice) {
    const now = performance.now();
    this.began ??= now;
    this.reason = choice?.finish_reason ?? this.reason;
    if (!event.usage) return "";
    const { prompt_tokens: prompt, completion_tokens: count } = event.usage;
    const rate = count > 1 ? ` · ${((count - 1) / ((now - this.began) / 1000)).toFixed(1)} tokens/s` : "";
    return `${prompt} + ${count} tokens${rate}${this.reason === "length" ? " · cut off" : ""}`;
  }
}

function body(turn) {
  const parts = turn.reasoning
    ? [h("details", { open: !turn.content }, h("summary", {}, "Reasoning"), h("div", { className: "soft" }, ...markdown(turn.reasoning)))]
    : [];
  parts.push(h("div", {}, ...markdown(turn.content)));
  if (turn.tokens?.length) {
    parts.push(h("details", {}, h("summary", {}, "Tokens"),
      h("p", { className: "tokens" }, ...turn.tokens.map(token))));
  }
  return parts;
}

/** The redder, the less likely. Its alternatives are in the title. */
function token(one) {
  const share = Math.exp(one.logprob);
  const others = (one.top_logprobs ?? []).map((other) =>
    `${(100 * Math.exp(other.logprob)).toFixed(1)} % ${JSON.stringify(other.token)}`);
  const made = h("span", { tabIndex: 0, title: [`${(100 * share).toFixed(1)} %`, ...others].join("\n") }, one.token);
  made.style.background = `color-mix(in srgb, var(--danger) ${Math.round(60 * (1 - share))}%, transparent)`;
  return made;
}
