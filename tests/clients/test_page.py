"""The pages at ``/`` and ``/docs``: what they hold, and their forms in a headless browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from browser import Page, browser, program
from gateways import EMBEDDER, GENERATOR, Served

# Fills a form, sends it, waits, and returns what it shows, and how often that changed.
FORM = """(async () => {
  const section = document.getElementById(%s), form = section.querySelector("form");
  const out = form.querySelector("output");
  let changes = 0;
  new MutationObserver((records) => { changes += records.length; }).observe(out, {childList: true});
  for (const [name, value] of Object.entries(%s)) form.elements[name].value = value;
  delete out.dataset.done;
  form.requestSubmit();
  const began = Date.now();
  while (!out.dataset.done && out.className !== "error" && Date.now() - began < 30000)
    await new Promise((go) => setTimeout(go, 20));
  return {text: out.textContent, error: out.className, changes};
})()"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A tab of a browser, if one is installed."""
    path = program()
    if path is None:
        pytest.skip("no Chromium is installed: the page's forms are not tried")
    with browser(path) as page:
        yield page


def _try(page: Page, model: str, **fields: str) -> Any:
    return page.evaluate(FORM % (json.dumps(model), json.dumps(fields)))


def test_probes_get_an_empty_answer_and_browsers_a_page(http: httpx.Client) -> None:
    probe = http.get("/")
    assert (probe.status_code, probe.content) == (200, b"")
    answer = http.get("/", headers={"accept": "text/html,*/*"})
    assert answer.headers["content-type"].startswith("text/html")
    assert EMBEDDER in answer.text and GENERATOR in answer.text and "{{" not in answer.text
    assert http.head("/").status_code == 200


# Stands in for a browser: a document without elements, and a server that echoes its last message.
NODE = """
const bodies = [];
globalThis.document = {
  getElementById: () => ({ value: "", append() {} }),
  createElement: () => ({ append() {}, addEventListener() {} }),
};
globalThis.fetch = async (route, options) => {
  const body = JSON.parse(options.body);
  bodies.push(body);
  const last = body.messages.at(-1).content;
  if (last === "fail") return { ok: false, status: 400, text: async () => "no" };
  const event = JSON.stringify({ choices: [{ delta: { content: `to ${last}` } }] });
  return { ok: true, body: new Blob([`data: ${event}\n\ndata: [DONE]\n\n`]).stream() };
};
%s
(async () => {
  const model = { name: "m", task: "generate" };
  for (const prompt of ["one", "fail", "two"])
    await generate(model, { prompt, temperature: examples.temperature }, () => {}).catch(() => {});
  console.log(JSON.stringify(bodies));
})();
"""


def test_the_pages_conversation(http: httpx.Client) -> None:
    """Its own example was asked at temperature 1, and each question without those before it."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js is installed: the page's script is not tried")
    text = http.get("/", headers={"accept": "text/html"}).text
    script = text.partition("<script>")[2].partition("</script>")[0].replace('"use strict";', "")
    run = subprocess.run([node, "-e", NODE % script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    first, failed, second = json.loads(run.stdout)
    assert first["temperature"] == failed["temperature"] == 0
    turns = [("user", "one"), ("assistant", "to one"), ("user", "two")]
    assert [(m["role"], m["content"]) for m in second["messages"]] == turns
    assert len(failed["messages"]) == 3 and len(first["messages"]) == 1


def test_the_reference_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    answer = http.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    files = re.findall(r'(?:src|href)="(assets/[^"]+)"', answer.text)
    assert len(files) == answer.text.count("<script") + answer.text.count("<link") == 3
    for file in files:
        found = http.get(f"/{file}")
        assert found.status_code == 200 and len(found.content) > 100
        kind = "text/css" if file.endswith("css") else "javascript"
        assert kind in found.headers["content-type"]
        known = {"if-none-match": found.headers["etag"]}
        assert http.get(f"/{EMBEDDER}/{file}", headers=known).status_code == 304
    for absent in ("no.js", "..%2Froutes.py", "swagger-ui", ""):
        assert http.get(f"/assets/{absent}").status_code == 404


# Opens an operation, sends its example, and returns the status that is shown.
OPERATION = """(async () => {
  const find = async (selector) => {
    for (let i = 0; i < 1500; i++) {
      const found = document.querySelector(selector);
      if (found) return found;
      await new Promise((go) => setTimeout(go, 20));
    }
    throw new Error(selector);
  };
  const operation = await find('.opblock:has([data-path="/embed"]) button');
  const count = document.querySelectorAll(".opblock").length;
  operation.click();
  (await find(".opblock.is-open .execute")).click();
  const status = await find(".live-responses-table tbody .response-col_status");
  return {count, status: status.textContent.trim().slice(0, 3)};
})()"""


def test_an_operation_of_the_reference(page: Page, served: Served) -> None:
    page.open(f"{served.url}/docs")
    found = page.evaluate(OPERATION)
    described = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    assert found == {"count": sum(map(len, described.values())), "status": "200"}


def test_embedder_and_generator(page: Page, served: Served) -> None:
    page.open(served.url)
    assert page.evaluate("document.querySelectorAll('section').length") == 2
    found = _try(page, EMBEDDER, inputs="a cat\na kitten")
    assert "384 values" in found["text"] and "Cosine" in found["text"] and not found["error"]
    answer = _try(page, GENERATOR, prompt="What is the capital of France? One word.")
    # A stream: the text grew.
    assert answer["text"] and not answer["error"] and answer["changes"] > 2
    again = _try(page, GENERATOR, prompt="And of Italy?")
    assert again["text"].startswith(answer["text"]) and "> And of Italy?" in again["text"]
    refused = _try(page, EMBEDDER, inputs="")
    assert refused["error"] and "`inputs` cannot be empty" in refused["text"]


def test_the_other_tasks(page: Page, scoring: Served) -> None:
    page.open(scoring.url)
    ranks = _try(page, "tiny-rerank", query="abc def", texts="ghi\nabc abc def")
    assert len(ranks["text"].splitlines()) == 2 and "abc abc def" in ranks["text"]
    assert _try(page, "tiny-classify", inputs="abc")["text"].count("LABEL_") == 3
    assert _try(page, "tiny-token_classify", inputs="abc")["text"].strip()
    assert "entries, the largest" in _try(page, "tiny-sparse", inputs="abc")["text"]
