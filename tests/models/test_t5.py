"""T5 against transformers: original, v1.1 and FLAN, the encoder packed, the decoder paged."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import DEVICE
from tiny.paged import PagedRunner
from tiny.t5 import CONFIGS, ORIGINAL, VOCAB, write_t5
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5Attention

from atoll.errors import ConfigError, WeightError
from atoll.layers.relative import bucket
from atoll.models.registry import Checkpoint, load_decoder
from atoll.weights.load import LoadOptions

NUM_NEW = 32


@dataclass(frozen=True)
class Case:
    folder: Path
    reference: Any
    inputs: dict[str, list[int]]

    @torch.inference_mode()
    def logits(self, name: str, ids: list[int]) -> Tensor:
        out: Tensor = self.reference(
            input_ids=torch.tensor([self.inputs[name]]), decoder_input_ids=torch.tensor([ids])
        ).logits[0]
        return out.float()


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp(request.param)
    reference = write_t5(request.param, folder)
    ids = torch.randint(2, VOCAB, (60,), generator=torch.Generator().manual_seed(5)).tolist()
    yield Case(folder, reference, {"a": ids[:37], "b": ids[37:40], "c": ids[40:]})


def _runner(case: Case, dtype: torch.dtype = torch.float32) -> PagedRunner:
    model = load_decoder(Checkpoint.open(case.folder), LoadOptions(dtype, DEVICE))
    return PagedRunner(model, dtype=dtype)


def _assert_close(ours: Tensor, reference: Tensor) -> None:
    assert float((ours - reference).abs().max()) <= 1e-4 * float(reference.std())


def test_decoder_prompt_over_packed_inputs(case: Case) -> None:
    runner = _runner(case)
    runner.encode(case.inputs)
    ids = [0, *case.inputs["c"]]
    out = runner.step({name: ids for name in case.inputs})
    for name in case.inputs:
        _assert_close(out[name], case.logits(name, ids))


def test_greedy_batched_with_a_newcomer(case: Case) -> None:
    """The third input is encoded while the others decode."""
    runner = _runner(case)
    runner.encode({name: case.inputs[name] for name in "ab"})
    generated = {"a": [0], "b": [0]}
    for step in range(NUM_NEW + 5):
        if step == 5:
            runner.encode({"c": case.inputs["c"]})
            generated["c"] = [0]
        chunks = {n: ids[-1:] for n, ids in generated.items() if len(ids) <= NUM_NEW}
        for name, logits in runner.step(chunks).items():
            generated[name].append(int(logits[-1].argmax()))
    for name, ids in generated.items():
        assert len(ids) == NUM_NEW + 1
        scores = case.logits(name, ids[:-1])
        best = scores.max(-1)
        chosen = scores[range(NUM_NEW), ids[1:]]
        assert best.indices.tolist() == ids[1:] or (best.values - chosen).max() < 1e-5


def test_bfloat16_is_as_close_as_transformers(case: Case) -> None:
    ids = [0, *case.inputs["c"]]
    exact = case.logits("a", ids)
    runner = _runner(case, torch.bfloat16)
    runner.encode({"a": case.inputs["a"]})
    ours = runner.step({"a": ids})["a"]
    case.reference.to(torch.bfloat16)
    theirs = case.logits("a", ids)
    case.reference.float()
    error = [float((found - exact).square().mean().sqrt()) for found in (ours, theirs)]
    assert 0 < error[0] <= 1.5 * error[1]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20)])
def test_buckets(num_buckets: int, max_distance: int, bidirectional: bool) -> None:
    distance = torch.arange(-300, 301)
    expected = T5Attention._relative_position_bucket(
        distance, bidirectional, num_buckets, max_distance
    )
    found = bucket(distance, num_buckets, max_distance, bidirectional)
    assert torch.equal(found, expected)
    near = distance.clamp(-max_distance, max_distance)
    assert torch.equal(bucket(near, num_buckets, max_distance, bidirectional), expected)


def test_a_missing_head_is_tied_only_if_the_config_says_so(tmp_path: Path) -> None:
    write_t5("t5", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**ORIGINAL, "tie_word_embeddings": False}))
    with pytest.raises(WeightError, match="lm_head.weight is missing"):
        load_decoder(Checkpoint.open(tmp_path), LoadOptions())


def test_float16_is_refused(tmp_path: Path) -> None:
    write_t5("t5", tmp_path)
    with pytest.raises(ConfigError, match="use bfloat16"):
        load_decoder(Checkpoint.open(tmp_path), LoadOptions(dtype=torch.float16))
