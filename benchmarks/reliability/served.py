"""What the soak serves: the two embedded models, tiny ones that stay, and some that come and go."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "support"))

import httpx
from kinds import Models
from load import Target
from serving import Serving, serving

from atoll.launcher.admin.client import AdminClient

ADAPTER, PASSING, SLEEPER = "poet", "tiny-passing", "tiny-sleeper"
RERANKER, CLASSIFIER = "tiny-reranker", "tiny-classifier"
# A KV cache of 180 MB, which is in memory as soon as all of it has been written to.
CACHE_TOKENS = 4096
_ENVIRONMENT: Any = {
    # One thread for each model: all of them share the machine.
    "ATOLL_NUM_THREADS": "1",
    # What is kept on purpose is soon full, and then makes room.
    "ATOLL_GATEWAY_MAX_STORED_RESPONSES": "50",
    "ATOLL_GATEWAY_MAX_BATCH_FILES": "50",
}
_GENERATOR = "HuggingFaceTB/SmolLM2-135M-Instruct"


class Served(NamedTuple):
    """A running server, its admin socket, and what the load asks. folder: has the checkpoints."""

    server: Serving
    admin: AdminClient
    target: Target
    folder: Path

    @property
    def identity(self) -> str:
        """What the names of its files in /dev/shm begin with."""
        return Path(self.admin.address).stem.replace("-", "_")


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """``with``: ``atoll serve`` as a user runs it. folder: empty; gets checkpoints and the log."""
    _write_checkpoints(folder)
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    names = ("all-minilm-l6-v2", "smollm2-135m-instruct", RERANKER, CLASSIFIER)
    ids = [str(folder / name) if (folder / name).is_dir() else name for name in names]
    with serving(
        folder, *(f"--model-id={one}" for one in ids), f"--max-batch-total-tokens={CACHE_TOKENS}",
        XDG_RUNTIME_DIR=str(runtime), HF_HUB_OFFLINE="1", **_ENVIRONMENT,
    ) as server:  # fmt: skip
        ports = server.ports
        target = Target(
            server.url(),
            tuple(f"127.0.0.1:{ports[name]}" for name in ("grpc-port", "gateway-grpc-port")),
            server.url("http-port"),
            Models(
                reranker=RERANKER,
                classifier=CLASSIFIER,
                passing=(PASSING,),
                passing_chats=(ADAPTER,),
            ),
        )
        (address,) = (runtime / "atoll").iterdir()
        with AdminClient(address) as admin:
            found = Served(server, admin, target, folder)
            _fill_cache(found)
            yield found


def _fill_cache(served: Served) -> None:
    """Writes to each block of the generator's cache."""
    for number in range(5):
        prompt = f"{number} is a number. " + "The tide comes and goes. " * 250
        body = {"model": served.target.models.generator, "prompt": prompt, "max_tokens": 1}
        response = httpx.post(f"{served.target.http}/v1/completions", json=body, timeout=120)
        response.raise_for_status()


def _write_checkpoints(folder: Path) -> None:
    # Seconds, which nobody else who imports this needs to spend.
    import transformers as hf
    from adapters import save_adapter
    from tiny.encoder_sizes import SIZES

    from atoll.weights.files import resolve

    config = hf.BertConfig(**SIZES | {"max_position_embeddings": 512})
    for name, labels in ((RERANKER, 1), (CLASSIFIER, 3)):
        config.num_labels = labels
        _write(folder / name, hf.BertForSequenceClassification(config))
    for name in (PASSING, SLEEPER):
        _write(folder / name, hf.BertModel(config))
    save_adapter(resolve(_GENERATOR), folder / ADAPTER, 0, ["q_proj", "v_proj"], r=4)


def _write(folder: Path, model: Any) -> None:
    from tiny.checkpoint import Variant, write
    from tiny.encoders import write_text_files

    write(Variant(folder.name, lambda: model), folder)
    write_text_files(folder)
