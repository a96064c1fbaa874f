"""A checkpoint folder as a started engine, without a server."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from driving import Collector

from atoll.config import Settings
from atoll.engine.request import Request, SamplingOptions
from atoll.serving.engine_loader import LoadedEngine, load_engine


@contextmanager
def engine(folder: Path, task: str = "generate", **settings: Any) -> Iterator[LoadedEngine]:
    """A started engine with a cache of a thousand tokens, in float32."""
    limits = {"max_batch_total_tokens": 1024, "num_threads": 1, "dtype": "float32", **settings}
    loaded = load_engine(Settings(model_id=str(folder), **limits), folder, task=task)
    loaded.engine.start()
    try:
        yield loaded
    finally:
        loaded.engine.stop()


def answers(loaded: LoadedEngine, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Greedy answers of all prompts at once; an encoder-decoder's prompts are its inputs."""
    start = loaded.limits.decoder_start_token_id
    sinks: list[Collector] = []
    for i, ids in enumerate(prompts):
        prompt, encoder = (tuple(ids), ()) if start is None else ((start,), tuple(ids))
        sinks.append(Collector())
        options = SamplingOptions(max_new_tokens=count)
        loaded.engine.submit(Request(f"r{i}", prompt, options, sinks[-1], encoder_ids=encoder))
    assert all(sink.ended.wait(60) for sink in sinks)
    assert [sink.error for sink in sinks] == [None] * len(sinks)
    return [sink.ids for sink in sinks]
