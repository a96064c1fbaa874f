"""What is fuzzed: ``atoll serve`` with a model of each task, an admin key and a port for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "tests" / "support"))

from serving import Serving, serving
from tiny.checkpoint import write
from tiny.encoders import classifiers, token_classifiers, write_text_files
from tiny.whisper import write_whisper

from atoll.catalogue import Entry, entry_for, read_model, session, write_repository
from atoll.catalogue.pipelines import ensemble, retrieve_rerank, tokens
from atoll.launcher import free_ports

EMBEDDER, GENERATOR = "all-minilm-l6-v2", "smollm2-135m-instruct"
RERANKER, CLASSIFIER, ENTITIES = "tiny-reranker", "tiny-classifier", "tiny-entities"
SPEECH, SEARCH, ENSEMBLE = "tiny-speech", "search", "minilm-ensemble"
# Loaded and unloaded by requests for administrators; none of the others may be.
VICTIM = "tiny-victim"
KEY, ADMIN_KEY = "a-key-of-the-fuzzer", "0123456789abcdef0123456789abcdef"
MODELS = (
    EMBEDDER, GENERATOR, RERANKER, CLASSIFIER, ENTITIES, SPEECH, SEARCH, ENSEMBLE,
    f"{GENERATOR}-session", f"{EMBEDDER}-tokens",
)  # fmt: skip
_IDS = {
    EMBEDDER: "sentence-transformers/all-MiniLM-L6-v2",
    GENERATOR: "HuggingFaceTB/SmolLM2-135M-Instruct",
}
# Whatever a request asks for ends within seconds.
_SETTINGS = {GENERATOR: {"max_total_tokens": "96"}}


@dataclass(frozen=True)
class Target:
    """A running server. identity: what the names of its files in /dev/shm begin with."""

    server: Serving
    admin_port: int
    admin_socket: Path
    log: Path

    @property
    def identity(self) -> str:
        return self.admin_socket.stem.replace("-", "_")

    def port(self, name: str) -> int:
        """By its flag's name."""
        return self.admin_port if name == "admin-port" else self.server.ports[name]


@contextmanager
def fuzzed(folder: Path) -> Iterator[Target]:
    """``with``: the server. folder: empty; gets checkpoints, entries and the log."""
    repository = folder / "repository"
    write_repository(_entries(folder), repository)
    runtime, key_file, log = folder / "run", folder / "admin-key", folder / "complete.log"
    runtime.mkdir(mode=0o700)
    key_file.write_text(ADMIN_KEY)
    key_file.chmod(0o600)
    (port,) = free_ports(1)
    with serving(
        folder, "--repository", str(repository), *(f"--model-id={name}" for name in MODELS),
        f"--api-key={KEY}", f"--admin-key-file={key_file}", f"--admin-port={port}",
        f"--log-file={log}", "--watch-interval=2", within_s=300,
        XDG_RUNTIME_DIR=str(runtime), HF_HUB_OFFLINE="1", ATOLL_NUM_THREADS="1",
    ) as server:  # fmt: skip
        (address,) = (runtime / "atoll").iterdir()
        yield Target(server, port, address, log)


def _entries(folder: Path) -> list[Entry]:
    embedder = _IDS[EMBEDDER]
    for name, variant in (
        (RERANKER, classifiers(1)[0]), (CLASSIFIER, classifiers(3)[0]),
        (ENTITIES, token_classifiers(3)[0]), (VICTIM, classifiers(2)[0]),
    ):  # fmt: skip
        write(variant, folder / name)
        write_text_files(folder / name)
    (folder / SPEECH).mkdir()
    write_whisper("whisper", folder / SPEECH)
    ids = _IDS | {
        name: str(folder / name) for name in (RERANKER, CLASSIFIER, ENTITIES, SPEECH, VICTIM)
    }
    return [
        *(
            entry_for(model, read_model(_folder(model)), name=name, settings=_SETTINGS.get(name))
            for name, model in ids.items()
        ),
        session(GENERATOR),
        tokens(f"{EMBEDDER}-tokens", embedder),
        ensemble(ENSEMBLE, f"{EMBEDDER}-tokens", EMBEDDER, 384),
        retrieve_rerank(SEARCH, EMBEDDER, RERANKER),
    ]  # fmt: skip


def _folder(model: str) -> Path:
    from atoll.weights.files import resolve

    return resolve(model)
