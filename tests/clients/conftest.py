"""Real servers for all tests here, the first two with a gateway in front.

``others``: models that are not Atoll's. ``served``: the two embedded models. ``scoring``: tiny
checkpoints that rerank, classify texts and tokens, give sparse vectors and vectors of tokens, and
transcribe.
``echoes``: generators that say what they are told. ``complete``: an entry of every kind, pipelines
included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from collector import Collector
from echo import TEMPLATES, write_echo
from gateways import EMBEDDER, GENERATOR, Others, Served, free_port, fronted, start_gateway
from other_models import OtherServer
from serving import ONE_THREAD
from tiny.rerankers import Reranker, write_reranker

from atoll.launcher import ServerProcess
from atoll.logs import LogOptions


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs servers."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.server)


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where ``served`` sends its spans."""
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="session")
def served(collector: Collector) -> Iterator[Served]:
    """The embedder and the generator that come as packages; it logs requests as JSON."""
    # Not in this process, whose Hugging Face clients would then refuse to call anything.
    environment = {
        "HF_HUB_OFFLINE": "1", "ATOLL_OTLP_ENDPOINT": collector.address,
        "ATOLL_LOG_FORMAT": "json", "ATOLL_LOG_REQUESTS": "true", **ONE_THREAD,
    }  # fmt: skip
    options = {
        "exit_timeout_s": 3, "watch_interval_s": 0.0, "environment": environment,
        "log": LogOptions(log_format="json"),
    }  # fmt: skip
    traced = {"otlp_endpoint": collector.address}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        with ServerProcess.embedded(**options) as server, fronted(server, **traced) as served:
            yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    """A client as people make it."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny checkpoints by task."""
    from tiny.checkpoint import write
    from tiny.encoders import MASKED, classifiers, token_classifiers, write_text_files
    from tiny.late import write_colbert

    variants = {
        "rerank": classifiers(1)[0], "classify": classifiers(3)[0], "sparse": MASKED,
        "token_classify": token_classifiers(4)[0],
    }  # fmt: skip
    found = {}
    for task, variant in variants.items():
        found[task] = tmp_path_factory.mktemp(task) / f"tiny-{task}"
        write(variant, found[task])
        write_text_files(found[task])
    config = found["token_classify"] / "config.json"
    tags = {"id2label": dict(enumerate(("O", "B-PER", "I-PER", "LOC")))}
    config.write_text(json.dumps({**json.loads(config.read_text()), **tags}))
    found["multi_vector"] = tmp_path_factory.mktemp("multi_vector") / "tiny-multi_vector"
    write_colbert(found["multi_vector"])
    return found


@pytest.fixture(scope="session")
def decoding_reranker(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reranker]:
    """The folder of a decoder that reranks, and how it is asked; others are the default."""
    folder = tmp_path_factory.mktemp("decoder") / "tiny-yes-qwen3-reranker-0.6b"
    return folder, write_reranker("Qwen3-Reranker-0.6B", folder)


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that transcribes."""
    from tiny.whisper import write_whisper

    folder = tmp_path_factory.mktemp("speech") / "tiny-transcribe"
    folder.mkdir()
    write_whisper("whisper", folder)
    return folder


@pytest.fixture(scope="session")
def scoring(
    folders: dict[str, Path], decoding_reranker: tuple[Path, Reranker], whisper: Path
) -> Iterator[Served]:
    """Rerankers, classifiers of texts and tokens, a sparse embedder, a late-interaction model, and
    one that transcribes."""
    from atoll.cli.choose import entry_of
    from atoll.launcher.options import ServerOptions

    entries = tuple(entry_of(str(folder), {"task": task}) for task, folder in folders.items())
    entries += (entry_of(str(decoding_reranker[0]), {}), entry_of(str(whisper), {}))
    options = ServerOptions.on_free_ports(
        entries=entries, exit_timeout_s=3, watch_interval_s=0.0, environment=ONE_THREAD
    )
    with ServerProcess(options) as server, fronted(server) as served:
        yield served


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Generators that say what they are told, by the name of their chat template."""
    root = tmp_path_factory.mktemp("echoes")
    for name, (template, markers) in TEMPLATES.items():
        write_echo(root / name, template, markers)
    return {name: root / name for name in TEMPLATES}


@pytest.fixture(scope="session")
def echoes(checkpoints: dict[str, Path]) -> Iterator[Served]:
    """Their server."""
    from atoll.cli.choose import entry_of
    from atoll.launcher.options import ServerOptions

    own = {"xml": {"tool_call_parser": "qwen3_coder", "max_batch_size": "2", "speculate": "4"}}
    entries = tuple(
        entry_of(str(folder), {"task": "generate", **own.get(name, {})})
        for name, folder in checkpoints.items()
    )
    options = ServerOptions.on_free_ports(
        entries=entries, exit_timeout_s=3, watch_interval_s=0.0, environment=ONE_THREAD
    )
    with ServerProcess(options) as server, fronted(server) as served:
        yield served


@pytest.fixture(scope="session")
def complete(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server with an entry of every kind that the pages name; reranker and sparse are tiny."""
    from atoll.catalogue import ENTRIES, PIPELINES, Entry, Pipeline, write_repository
    from atoll.cli.choose import entry_of
    from atoll.launcher.options import ServerOptions

    folder = tmp_path_factory.mktemp("repository")
    entries: list[Entry | Pipeline] = [*ENTRIES, *PIPELINES]
    names = (
        EMBEDDER, GENERATOR, f"{GENERATOR}-session", f"{EMBEDDER}-tokens",
        f"{EMBEDDER}-ensemble", "retrieve-rerank", "hybrid-search",
    )  # fmt: skip
    write_repository([entry for entry in entries if entry.name in names], folder)
    tiny = {"rerank": "bge-reranker-base", "sparse": "splade-cocondenser-ensembledistil"}
    for task, name in tiny.items():
        named = {"task": task, "served_model_name": name}
        write_repository([entry_of(str(folders[task]), named)], folder)
    options = ServerOptions.on_free_ports(
        repository=folder,
        exit_timeout_s=3,
        watch_interval_s=0.0,
        allow_shared_memory=True,
        environment=ONE_THREAD,
    )
    with ServerProcess(options) as server:
        yield server


@pytest.fixture(scope="session")
def others() -> Iterator[Others]:
    """A server whose models are not Atoll's, and a gateway."""
    with OtherServer() as server:
        gateway = start_gateway(server.grpc_url, grpc_port=str(free_port()))
        try:
            gateway.wait_ready()
            yield Others(server, gateway)
        finally:
            gateway.stop()


@pytest.fixture(scope="session")
def http(served: Served) -> Iterator[httpx.Client]:
    """Plain HTTP to the gateway of the embedded models."""
    with httpx.Client(base_url=served.url, timeout=60.0) as client:
        yield client
