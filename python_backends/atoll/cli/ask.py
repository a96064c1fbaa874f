"""``atoll infer`` and ``atoll chat``: ask a running server from the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from atoll.cli.options import URL, AsJson, ServedName, Timeout, Url, connect, print_json
from atoll.errors import ConfigError

if TYPE_CHECKING:
    from atoll_client import Client

MaxTokens = Annotated[
    int, typer.Option(envvar="ATOLL_MAX_TOKENS", help="Tokens of the longest answer.")
]
Temperature = Annotated[
    float, typer.Option(envvar="ATOLL_TEMPERATURE", help="0: the likeliest token, always.")
]
# Weights of a sparse vector that are worth a look, and numbers of a dense one.
_SHOWN = 8


def infer(
    model: ServedName,
    text: Annotated[
        list[str] | None,
        typer.Option(help="A text; may be repeated. Without it: each line of standard input."),
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="What a reranker compares the texts with.")
    ] = None,
    max_tokens: MaxTokens = 64,
    temperature: Temperature = 0.0,
    url: Url = URL,
    timeout: Timeout = 600.0,
    as_json: AsJson = False,
) -> None:
    """Ask a model of a running server: vectors, scores, labels or text, as its task is."""
    texts = text or ([] if sys.stdin.isatty() else sys.stdin.read().splitlines())
    if not texts:
        raise ConfigError("no text to ask with: --text, or lines on standard input")
    with connect(url, timeout) as client:
        task = {found.name: found.task for found in client.models()}.get(model)
        if task == "generate":
            _generate(client, model, texts, as_json, max_tokens, temperature)
            return
        rows = _rows(client, model, task, texts, query)
    if as_json:
        print_json({"model": model, "task": task, "results": rows})
        return
    table = Table("text", "answer")
    for row in rows:
        table.add_row(str(row.pop("text", "")), _shown(row))
    Console().print(table)


def chat(
    model: ServedName,
    system: Annotated[
        str | None, typer.Option(envvar="ATOLL_SYSTEM", help="What the model is told first.")
    ] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    url: Url = URL,
    timeout: Timeout = 600.0,
    as_json: AsJson = False,
) -> None:
    """Chat with a generator of a running server, line by line; Ctrl-D ends it.

    Ctrl-C stops an answer. With --json, the whole conversation is printed at the end.
    """
    is_terminal = sys.stdin.isatty()
    with connect(url, timeout) as client:
        tasks = {found.name: found.task for found in client.models()}
        if tasks.get(model) != "generate":
            raise ConfigError(f"{model!r} is no generator of this server; it serves {tasks}")
        conversation = client.conversation(model, system)
        for line in _lines(is_terminal):
            pieces = conversation.stream(line, max_tokens=max_tokens, temperature=temperature)
            try:
                for piece in pieces:
                    if not as_json:
                        print(piece, end="", flush=True)
            except KeyboardInterrupt:
                pieces.close()
            if not as_json:
                print()
        if as_json:
            print_json(conversation.messages)


def _lines(is_terminal: bool) -> Any:
    """What is typed, with a prompt in a terminal; empty lines ask nothing."""
    while True:
        try:
            line = input("> " if is_terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


def _generate(
    client: Client, model: str, texts: list[str], as_json: bool, max_tokens: int, temperature: float
) -> None:
    rows = []
    for text in texts:
        parts = []
        for chunk in client.stream(text, model, max_tokens=max_tokens, temperature=temperature):
            parts.append(chunk.text)
            if not as_json:
                print(chunk.text, end="", flush=True)
        rows.append({"text": text, "answer": "".join(parts)})
        if not as_json:
            print()
    if as_json:
        print_json({"model": model, "task": "generate", "results": rows})


def _rows(
    client: Client, model: str, task: str | None, texts: list[str], query: str | None
) -> list[dict[str, Any]]:
    """A row for each text; of a model that is not one of ours, a row for each output."""
    if task == "embed":
        vectors = client.embed(texts, model)
        return [{"text": t, "embedding": v.tolist()} for t, v in zip(texts, vectors, strict=True)]
    if task == "sparse":
        found = client.embed_sparse(texts, model)
        return [
            {"text": t, "indices": v.indices.tolist(), "values": v.values.tolist()}
            for t, v in zip(texts, found, strict=True)
        ]
    if task == "rerank":
        if query is None:
            raise ConfigError(f"{model} is a reranker: --query says what for")
        ranks = client.rerank(query, texts, model)
        return [{"text": r.text, "index": r.index, "score": r.score} for r in ranks]
    if task == "classify":
        labels = client.classify(texts, model)
        return [
            {"text": t, "labels": {one.label: one.score for one in row}}
            for t, row in zip(texts, labels, strict=True)
        ]
    inputs = {"text_input": [[t] for t in texts], **({"query": [[query]]} if query else {})}
    outputs = client.infer(model, inputs)
    return [
        {"text": name, "output": value.tolist() if hasattr(value, "tolist") else value}
        for name, value in outputs.items()
    ]


def _shown(row: dict[str, Any]) -> str:
    """The answer in a line: long lists are cut."""
    if "labels" in row:
        return ", ".join(f"{name} {score:.4f}" for name, score in row["labels"].items())
    if "score" in row:
        return f"{row['score']:.4f}"
    if "indices" in row:
        pairs = sorted(zip(row["values"], row["indices"], strict=True), reverse=True)[:_SHOWN]
        return ", ".join(f"{index}: {value:.3f}" for value, index in pairs)
    if "embedding" in row:
        first = ", ".join(f"{value:.4f}" for value in row["embedding"][:_SHOWN])
        return f"[{first}, ...] ({len(row['embedding'])} numbers)"
    return str(row["output"])
