"""``atoll infer`` and ``atoll chat``: query a running server from the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.options import URL, AsJson, Key, ServedName, Timeout, Url, connect, print_json
from atoll.cli.rows import of_encoder, of_images, of_pipeline, of_sounds, shown
from atoll.cli.tables import print_table
from atoll.errors import ConfigError

if TYPE_CHECKING:
    from atoll_client import Client
    from atoll_client.types import ModelInfo

MaxTokens = Annotated[
    int, typer.Option(envvar="ATOLL_MAX_TOKENS", help="Maximum length of an answer in tokens.")
]
Temperature = Annotated[
    float, typer.Option(envvar="ATOLL_TEMPERATURE", help="0: always choose the likeliest token.")
]
# What the models of a task read besides texts.
_READ = {
    "generate": ("max_tokens", "temperature", "num_beams"), "rerank": ("query",),
    "multi_vector": ("query",), "transcribe": ("temperature",),
    "conversations": ("max_tokens", "temperature"),
}  # fmt: skip


def infer(
    context: typer.Context,
    model: ServedName,
    text: Annotated[
        list[str] | None,
        typer.Option(help="A text; may be repeated. By default, each line of standard input."),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            help="An image file, for a model of texts and images; may be repeated.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option(
            help="An audio file, for a model that transcribes; may be repeated.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(
            help="The query that a reranker, retrieve-rerank or hybrid-search scores the texts for."
        ),
    ] = None,
    max_tokens: MaxTokens = 64,
    temperature: Temperature = 0.0,
    num_beams: Annotated[
        int | None,
        typer.Option(
            help="Beams of a search for the answer; by default, the model's files decide."
        ),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="Of the requests that wait, lower goes first; -999 to 999.")
    ] = None,
    url: Url = URL,
    key: Key = None,
    timeout: Timeout = 600.0,
    as_json: AsJson = False,
) -> None:
    """Query a model of a running server: get vectors, scores, labels or text.

    Ensembles and pipelines are queried by their input tensors. For a NAME-session entry, the texts
    are the turns of one conversation. A flag that the model does not read is refused; a variable
    counts for the models that read it.
    """
    images, sounds = image or [], audio or []
    is_piped = not (text or images or sounds or sys.stdin.isatty())
    texts = sys.stdin.read().splitlines() if is_piped else text or []
    if not texts and not images and not sounds:
        raise ConfigError("no text to ask with: --text, or lines on standard input")
    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    if num_beams is not None:
        options["num_beams"] = num_beams
    with connect(url, timeout, key) as client:
        client = client if priority is None else client.with_priority(priority)
        models, generator = _models(client), model.removesuffix("-session")
        found = models.get(model)
        task = found.task if found else None
        is_session = found is None and generator in models and models[generator].task == "generate"
        if found is not None or is_session:
            read_by = task or "conversations"
            _refuse_unread(
                context, model, read_by, _READ.get(read_by, ()),
                "texts and --image" if found and _takes_images(found) else "texts alone",
            )  # fmt: skip
        if images and task != "embed":
            raise ConfigError(f"{model} is not for images: --image is for models that embed them")
        if sounds and task != "transcribe":
            raise ConfigError(f"{model} is not for sounds: --audio is for models that transcribe")
        if task == "transcribe":
            if texts or not sounds:
                raise ConfigError(f"{model} transcribes: --audio says which file")
            rows = of_sounds(client, model, sounds, temperature)
        elif task == "generate":
            _print_answers(
                model, texts, as_json,
                lambda text: (chunk.text for chunk in client.stream(text, model, **options)),
            )  # fmt: skip
            return
        elif is_session:
            with client.conversation(generator, session=True) as talk:
                _print_answers(model, texts, as_json, lambda text: talk.stream(text, **options))
            return
        elif task is None:
            read = ("query",) if "query" in client.input_shapes(model) else ()
            _refuse_unread(context, model, "asked by its tensors", read, "texts alone")
            rows = of_pipeline(client, model, texts, query)
        else:
            rows = of_encoder(client, model, task, texts, query) if texts else []
            rows += of_images(client, model, images) if images else []
    if as_json:
        print_json({"model": model, "task": task, "results": rows})
        return
    print_table(("text", "answer"), [(_named(row), shown(row)) for row in rows])


def chat(
    model: ServedName,
    system: Annotated[
        str | None, typer.Option(envvar="ATOLL_SYSTEM", help="The system message.")
    ] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    url: Url = URL,
    key: Key = None,
    timeout: Timeout = 600.0,
    as_json: AsJson = False,
) -> None:
    """Chat with a generator of a running server, line by line; Ctrl-D ends it.

    Ctrl-C stops an answer. With --json, the whole conversation is printed at the end.
    """
    is_terminal = sys.stdin.isatty()
    with connect(url, timeout, key) as client:
        models = _models(client)
        if model not in models or models[model].task != "generate":
            generators = [name for name, one in models.items() if one.task == "generate"]
            served = ", ".join(generators) or "none"
            raise ConfigError(f"{model!r} is no generator of this server; those are: {served}")
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


def _refuse_unread(
    context: typer.Context, model: str, task: str, read: Collection[str], otherwise: str
) -> None:
    """Raises ConfigError: a flag that the model does not read.

    read: the flags that it reads besides texts. otherwise: what it reads, if these are none.
    """
    for name in ("query", "max_tokens", "temperature", "num_beams"):
        source = context.get_parameter_source(name)
        if name not in read and source is not None and source.name == "COMMANDLINE":
            flag = name.replace("_", "-")
            reads = ", ".join(f"--{one.replace('_', '-')}" for one in read) or otherwise
            raise ConfigError(
                f"--{flag} is {context.params[name]!r:.80}, which {model} ({task}) does not read; "
                f"it reads {reads}"
            )


def _named(row: dict[str, Any]) -> str:
    """What a row is the answer to."""
    return str(row.get("image", row.get("audio", row.get("text", ""))))


def _lines(is_terminal: bool) -> Any:
    """Lines of input, with a prompt in a terminal; empty lines are skipped."""
    while True:
        try:
            line = input("> " if is_terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


def _models(client: Client) -> dict[str, ModelInfo]:
    """Each model by every name that it has."""
    names = ((found, (found.name, found.model_id, *found.adapters)) for found in client.models())
    return {name: found for found, known in names for name in known}


def _takes_images(model: ModelInfo) -> bool:
    from atoll_client.embeddings import takes_images

    return takes_images(model)


def _print_answers(
    model: str, texts: list[str], as_json: bool, answer: Callable[[str], Iterable[str]]
) -> None:
    rows = []
    for text in texts:
        parts = []
        for piece in answer(text):
            parts.append(piece)
            if not as_json:
                print(piece, end="", flush=True)
        rows.append({"text": text, "answer": "".join(parts)})
        if not as_json:
            print()
    if as_json:
        print_json({"model": model, "task": "generate", "results": rows})
