// Answers in a JSON schema.

import { ask } from "./api.js";
import { codeButton } from "./code.js";
import { asking, copyButton, field, h, modelPicker } from "./dom.js";

const SCHEMA = {
  type: "object",
  properties: { name: { type: "string", maxLength: 40 }, year: { type: "integer" }, tags: { type: "array", items: { type: "string", maxLength: 20 }, maxItems: 3 } },
  required: ["name", "year", "tags"],
  additionalProperties: false,
};

export function structuredView(models) {
  const generators = models.filter((model) => model.task === "generate");
  if (!generators.length) return h("p", {}, "No generator is served.");
  const prompt = h("textarea", { name: "prompt", rows: 3, required: true, value: "Describe the first person on the moon." });
  const schema = h("textarea", { name: "schema", rows: 12, required: true, spellcheck: false, value: JSON.stringify(SCHEMA, null, 2) });
  const children = [
    field("Model", modelPicker(generators)), field("Message", prompt), field("JSON schema", schema),
  ];
  return asking(children, "Ask", async (values, signal) => {
    const answer = await ask(values.model, "v1/chat/completions", {
      messages: [{ role: "user", content: values.prompt }],
      response_format: { type: "json_schema", json_schema: { name: "answer", schema: parsed(values.schema) } },
      max_tokens: 512,
    }, signal);
    const [choice] = answer.choices;
    const text = pretty(choice.message.content);
    const note = choice.finish_reason === "length" ? "Cut off after 512 tokens." : `${answer.usage.completion_tokens} tokens`;
    return [h("div", { className: "block" }, h("pre", {}, h("code", {}, text)), copyButton(() => text)), h("p", { className: "soft" }, note)];
  }, [codeButton()]);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The schema is not JSON: ${error.message}`);
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
