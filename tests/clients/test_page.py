"""The pages at ``/`` and ``/docs``: their files, their code for clients, and a headless browser."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Page, browser, program
from gateways import EMBEDDER, GENERATOR, Served, start_gateway
from page_scripts import code, run, said, sent

ASSETS = Path(str(resources.files("atoll_client.gateway"))) / "assets"
MODULES = sorted((ASSETS / "playground").glob("*.js"))


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A tab of a browser, if one is installed."""
    path = program()
    if path is None:
        pytest.skip("no Chromium is installed: the pages are not tried in a browser")
    with browser(path) as page:
        yield page


def test_probes_get_an_empty_answer_and_browsers_a_page(http: httpx.Client) -> None:
    probe = http.get("/")
    assert (probe.status_code, probe.content) == (200, b"")
    answer = http.get("/", headers={"accept": "text/html,*/*"})
    assert answer.headers["content-type"].startswith("text/html")
    assert http.head("/").status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_nothing_from_elsewhere(http: httpx.Client, path: str) -> None:
    answer = http.get(path, headers={"accept": "text/html"})
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    files = re.findall(r'(?:src|href)="(assets/[^"]+)"', answer.text)
    assert len(files) == answer.text.count("<script") + answer.text.count("<link") >= 2
    for file in files:
        found = http.get(f"/{file}")
        assert found.status_code == 200 and len(found.content) > 100
        kind = "text/css" if file.endswith("css") else "javascript"
        assert kind in found.headers["content-type"]
        known = {"if-none-match": found.headers["etag"]}
        assert http.get(f"/{EMBEDDER}/{file}", headers=known).status_code == 304
    for absent in ("no.js", "..%2Froutes.py", "swagger-ui", ""):
        assert http.get(f"/assets/{absent}").status_code == 404


def test_modules_import_what_there_is() -> None:
    texts = {path.name: path.read_text() for path in MODULES}
    assert "app.js" in texts
    for text in texts.values():
        for names, file in re.findall(r'import \{([^}]+)\} from "\./([^"]+)";', text):
            for name in names.split(","):
                exported = rf"export (?:async )?(?:function\*?|const|class) {name.strip()}\b"
                assert re.search(exported, texts[file]), (name, file)
        assert "https://" not in text and "innerHTML" not in text and "eval(" not in text


REQUESTS: list[dict[str, Any]] = [
    {"model": EMBEDDER, "route": "embed", "body": {"inputs": ["it's", 'a "b" \\ é']}},
    {"model": GENERATOR, "route": "v1/chat/completions", "body": {
        "messages": [{"role": "user", "content": "it's\nfine"}], "max_tokens": 3,
        "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}},
    {"model": "tiny-rerank", "route": "rerank", "body": {"query": "abc", "texts": ["a", "b"]}},
    {"model": "tiny-classify", "route": "predict", "body": {"inputs": "abc"}},
    {"model": "tiny-token_classify", "route": "predict", "body": {
        "inputs": "abc", "aggregation_strategy": "simple"}},
]  # fmt: skip


def _written(url: str, request: dict[str, Any]) -> dict[str, str]:
    """The page's code for a request, by client, from Node.js."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js is installed: the page's code for clients is not tried")
    script = (
        f"globalThis.location = new URL('{url}/');"
        f"globalThis.sessionStorage = {{ getItem: () => null }};"
        f"import('{(ASSETS / 'playground' / 'code.js').as_uri()}').then(({{ codeOf }}) =>"
        f" console.log(JSON.stringify(codeOf({json.dumps(request)}))))"
    )
    command = [node, "--experimental-default-type=module", "-e", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: one["model"])
def test_the_code_for_clients_runs(
    request_: dict[str, Any], served: Served, scoring: Served
) -> None:
    """As it is written, but for the port of gRPC."""
    front = served if request_["model"] in (EMBEDDER, GENERATOR) else scoring
    found = _written(front.url, request_)
    wanted = {"curl", "tritonclient", "atoll-client"}
    if front is served:
        wanted.add("openai")
    assert set(found) == wanted
    for name, text in found.items():
        if name == "curl":
            done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0 and "error" not in done.stdout and done.stdout, done.stderr
            continue
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            exec(text.replace("127.0.0.1:8081", front.grpc_address), {})
        assert shown.getvalue().strip(), name


# Opens an operation, sends its example, and returns the status that is shown.
OPERATION = """
  const find = (selector) => until(() => document.querySelector(selector));
  const operation = await find('.opblock:has([data-path="/embed"]) button');
  const count = document.querySelectorAll(".opblock").length;
  operation.click();
  (await find(".opblock.is-open .execute")).click();
  const status = await find(".live-responses-table tbody .response-col_status");
  return {count, status: status.textContent.trim().slice(0, 3)};
"""


def test_an_operation_of_the_reference(page: Page, served: Served) -> None:
    page.open(f"{served.url}/docs")
    found = run(page, OPERATION)
    described = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    assert found == {"count": sum(map(len, described.values())), "status": "200"}


def test_a_conversation(page: Page, served: Served) -> None:
    page.open(served.url)
    options = {"temperature": "0", "max_tokens": "24", "system": "Be brief.", "probabilities": True}
    first = said(page, "What is the capital of France?", **options)
    assert first["turns"][0] == "What is the capital of France?" and first["turns"][1]
    # A stream: the answer grew.
    assert first["changes"] > 3 and not first["error"] and "tokens/s" in first["note"]
    assert first["tokens"] and all(title.count("%") == 6 for title in first["tokens"])
    again = said(page, "And of Italy?", **options)
    assert len(again["turns"]) == 4 and again["turns"][:2] == first["turns"]
    retried = run(
        page,
        """
      [...document.querySelectorAll(".turn:last-child footer button")].at(-1).click();
      await answered(document.querySelector("form"));
      return document.querySelectorAll(".turn").length;""",
    )
    assert retried == 4
    page.open(served.url)
    kept = run(page, 'await open("chat"); return document.querySelectorAll(".turn").length;')
    assert kept == 4
    refused = said(page, "too much", max_tokens="9999999")
    assert "max_tokens" in refused["error"] or "9999999" in refused["error"]
    assert refused["kept"] == "too much" and len(refused["turns"]) == 4


def test_markdown_is_shown_and_html_is_not_interpreted(page: Page, served: Served) -> None:
    page.open(served.url)
    text = (
        "# Head\n\nA **b** `c` [d](https://e.f) <img src=x>\n\n- one\n- two\n\n"
        "| a | b |\n|-|-|\n| 1 | 2 |\n\n```py\nx = 1\n"
    )
    found = run(
        page,
        f"""
      const {{ markdown }} = await import("./assets/playground/markdown.js");
      const box = document.createElement("div");
      box.append(...markdown({json.dumps(text)}));
      const all = (selector) => [...box.querySelectorAll(selector)].map((one) => one.textContent);
      return {{ heads: all("h3"), strong: all("strong"), links: all("a"), items: all("li"),
        cells: all("th, td"), code: all("pre code"), buttons: all("button"), images: all("img"),
        plain: box.textContent.includes("<img src=x>") }};""",
    )
    assert found == {
        "heads": ["Head"], "strong": ["b"], "links": ["d"], "items": ["one", "two"],
        "cells": ["a", "b", "1", "2"], "code": ["x = 1\n"], "buttons": ["Copy"], "images": [],
        "plain": True,
    }  # fmt: skip


def test_the_other_views(page: Page, served: Served, scoring: Served) -> None:
    page.open(served.url)
    vectors = sent(page, "embed", texts="a cat\na kitten\na car")
    assert "3 vectors of 384 values" in vectors["text"]
    assert vectors["cells"] == 10 and vectors["dots"] == 3 and not vectors["error"]
    assert set(code(page)) == {"curl", "openai", "tritonclient", "atoll-client"}
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
              "additionalProperties": False}  # fmt: skip
    answer = sent(page, "structured", prompt="Is it?", schema=json.dumps(schema))
    assert json.loads(answer["code"][0])["ok"] in (True, False)
    assert "not JSON" in sent(page, "structured", prompt="Is it?", schema="{")["error"]
    refused = sent(page, "embed", texts=" ")
    assert refused["error"]
    page.open(scoring.url)
    assert sent(page, "rerank", query="abc def", texts="ghi\nabc abc def")["bars"] == 2
    classified = sent(page, "classify", model="tiny-classify", text="abc")
    assert classified["bars"] == 3 and "LABEL_" in classified["text"]
    entities = sent(page, "classify", model="tiny-token_classify", text="😀 abc def")
    assert entities["marks"] or "No entities" in entities["text"]
    assert entities["text"].replace("PER", "").replace("LOC", "").startswith("😀")


def test_the_servers_state(page: Page, served: Served) -> None:
    page.open(served.url)
    found = run(
        page,
        """
      await open("status");
      await until(() => document.querySelector("figcaption strong").textContent !== "–");
      return {
        rows: document.querySelectorAll("tbody tr").length,
        charts: [...document.querySelectorAll("figcaption")].map((one) => one.textContent),
      };""",
    )
    assert found["rows"] >= 2 and len(found["charts"]) == 6
    assert not any("NaN" in text or "–" in text for text in found["charts"])


def test_on_a_phone_in_the_dark_with_a_key(page: Page, served: Served) -> None:
    gateway = start_gateway(served.server.grpc_url, api_key="secret")
    try:
        gateway.wait_ready()
        page.look(width=390, scheme="dark")
        page.open(gateway.options.url)
        run(
            page,
            """
          const dialog = document.getElementById("key-dialog");
          await until(() => dialog.open);
          dialog.querySelector("input").value = "secret";
          dialog.querySelector("form").requestSubmit();""",
        )
        vectors = sent(page, "embed", texts="a\nb")
        assert vectors["dots"] == 2 and not vectors["error"]
        turns = [{"role": "user", "content": "word " * 60}]
        turns.append({"role": "assistant", "content": f"```\n{'x' * 300}\n```\n{'y' * 300}"})
        chats = json.dumps([{"id": 1, "title": "long " * 9, "system": "", "turns": turns}])
        run(page, f"localStorage.setItem('atoll-chats', {json.dumps(chats)});")
        page.open(gateway.options.url)
        seen = run(
            page,
            """
          const wide = [...document.querySelectorAll("nav a")].map((one) => one.hash.slice(1));
          const overflows = [];
          for (const view of wide) {
            await open(view);
            if (document.documentElement.scrollWidth > innerWidth) overflows.push(view);
          }
          return { overflows, back: getComputedStyle(document.body).backgroundColor,
            unnamed: [...document.querySelectorAll("main :is(input, textarea, select)")]
              .filter((one) => !one.labels?.length && !one.ariaLabel).length };""",
        )
        assert seen == {"overflows": [], "back": "rgb(20, 24, 26)", "unnamed": 0}
    finally:
        page.look(width=1200, scheme="light")
        gateway.stop()
