"""Scripts for the page at ``/`` in a browser: what somebody would do there."""

from __future__ import annotations

import json
from typing import Any

from browser import Page

_TOOLS = """
const until = async (test) => {
  for (let i = 0; i < 1500; i++) {
    const found = test();
    if (found) return found;
    await new Promise((go) => setTimeout(go, 20));
  }
  throw new Error(`waited in vain for ${test}: ${document.body.innerText}`);
};
const open = async (view) => {
  await until(() => document.body.dataset.ready);
  location.hash = view;
  await until(() => document.querySelector(`nav a[href="#${view}"][aria-current]`));
};
const fill = (values) => {
  const form = document.querySelector("main form");
  for (const [name, value] of Object.entries(values)) {
    const control = form.elements[name];
    if (control.type === "checkbox") control.checked = value; else control.value = value;
  }
  return form;
};
const answered = (form) =>
  until(() => ["done", "failed"].includes(form.dataset.state) && form);
"""


def run(page: Page, script: str) -> Any:
    """What the script, the body of an async function, returns."""
    return page.evaluate(f"(async () => {{{_TOOLS}{script}}})()")


def sent(page: Page, view: str, **values: object) -> dict[str, Any]:
    """Fills a view's form, sends it, and returns what is shown: text, error, marks, cells."""
    return dict(
        run(
            page,
            f"""
  await open({json.dumps(view)});
  const form = fill({json.dumps(values)});
  form.dataset.state = "";
  form.requestSubmit();
  await answered(form);
  const all = (selector) => [...form.querySelectorAll(selector)];
  return {{
    text: form.querySelector(".result").innerText, error: form.querySelector(".error").textContent,
    bars: all(".bar").length, marks: all("mark").map((one) => one.textContent),
    cells: all(".heat td").length, dots: all("circle").length,
    code: all("pre code").map((one) => one.textContent),
  }};""",
        )
    )


def said(page: Page, message: str, **values: object) -> dict[str, Any]:
    """Sends a chat message and returns the turns, the note, and how often the answer grew."""
    return dict(
        run(
            page,
            f"""
  await open("chat");
  const form = fill({json.dumps({**values, "prompt": message})});
  let changes = 0;
  const log = document.querySelector("[aria-label=Conversation]");
  const watch = new MutationObserver(() => {{ changes += 1; }});
  watch.observe(log, {{childList: true, subtree: true}});
  form.requestSubmit();
  await until(() => form.dataset.state === "waiting");
  await answered(form);
  watch.disconnect();
  const turns = [...log.querySelectorAll(".turn")];
  return {{
    turns: turns.map((one) => (one.querySelector(":scope > div") ?? one).innerText),
    note: turns.at(-1)?.querySelector("footer span")?.textContent, changes,
    error: form.querySelector(".error").textContent, kept: form.elements.prompt.value,
    tokens: [...log.querySelectorAll(".turn:last-child .tokens span")].map((one) => one.title),
  }};""",
        )
    )


def code(page: Page) -> dict[str, str]:
    """The last request as code, by client."""
    return dict(
        run(
            page,
            """
  document.querySelector("main [data-code]").click();
  const dialog = document.getElementById("code-dialog");
  const found = {};
  for (const button of dialog.querySelectorAll(".row button")) {
    button.click();
    found[button.textContent] = dialog.querySelector("code").textContent;
  }
  dialog.close();
  return found;""",
        )
    )
