"""Decoders against transformers: every architecture, every layout, whole, in chunks and paged."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import DEVICE
from tiny.checkpoint import Reference, Variant, write
from tiny.decoders import DECODERS
from tiny.llamas import DYNAMIC, VOCAB
from tiny.paged import PagedRunner
from torch import Tensor

from atoll.layers import Batch
from atoll.models.registry import Checkpoint, load_decoder
from atoll.weights.load import LoadOptions

NUM_NEW = 32
# Each kind of state that is a matrix.
RECURRENT = [v for v in DECODERS if v.name in ("qwen3-next", "granite-4-h", "mamba")]


@dataclass(frozen=True)
class Case:
    folder: Path
    reference: Reference
    model: Any
    prompts: dict[str, list[int]]


def _case(variant: Variant, folder: Path) -> Case:
    reference = write(variant, folder)
    model = load_decoder(Checkpoint.open(folder), LoadOptions(device=DEVICE))
    ids = torch.randint(3, VOCAB, (40,), generator=torch.Generator().manual_seed(5)).tolist()
    return Case(folder, reference, model, {"a": ids[:21], "b": ids[21:38], "c": ids[38:]})


@pytest.fixture(scope="module", params=DECODERS, ids=lambda v: v.name)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    yield _case(request.param, tmp_path_factory.mktemp("checkpoint"))


def _assert_close(ours: Tensor, reference: Tensor) -> None:
    limit = 2e-5 * max(1.0, float(reference.std()))
    assert float((ours - reference).abs().max()) <= limit


def test_prefill_whole_and_packed(case: Case) -> None:
    out = PagedRunner(case.model).step(case.prompts)
    for name, ids in case.prompts.items():
        _assert_close(out[name], case.reference.logits(ids))


def test_prefill_in_chunks(case: Case) -> None:
    ids = case.prompts["a"]
    runner = PagedRunner(case.model)
    parts = [runner.step({"a": ids[i:j]})["a"] for i, j in ((0, 3), (3, 4), (4, 15), (15, 21))]
    _assert_close(torch.cat(parts), case.reference.logits(ids))


@torch.inference_mode()
def test_without_a_cache(case: Case) -> None:
    """Texts as a whole, as an embedder that is a decoder would compute them."""
    prompts = list(case.prompts.values())
    counts = torch.tensor([0, *map(len, prompts)])
    batch = Batch(
        input_ids=torch.tensor(sum(prompts, []), device=DEVICE),
        positions=torch.cat([torch.arange(len(ids)) for ids in prompts]).to(DEVICE),
        cu_seqlens=counts.cumsum(0).int().to(DEVICE),
        max_position=int(counts.max()) - 1,
    )
    logits = case.model.logits(case.model(batch)).cpu().split(counts[1:].tolist())
    cached = PagedRunner(case.model).step(case.prompts)
    for found, name in zip(logits, case.prompts, strict=True):
        _assert_close(found, case.reference.logits(case.prompts[name]))
        _assert_close(found, cached[name])


@pytest.mark.parametrize("variant", RECURRENT, ids=lambda v: v.name)
def test_states_of_16_bits(variant: Variant, tmp_path: Path) -> None:
    """Rounded after each of a dozen steps: the logits are as exact as the states."""
    case = _case(variant, tmp_path)
    ids = case.prompts["b"]
    expected = case.reference.logits(ids)[5:]
    for stored, limit in ((torch.bfloat16, 3e-2), (torch.float16, 5e-3)):
        runner = PagedRunner(case.model, state_dtype=stored)
        assert any(tensor.dtype == stored for layer in runner.states for tensor in layer)
        runner.step({"b": ids[:5]})
        found = torch.cat([runner.step({"b": [token]})["b"] for token in ids[5:]])
        assert float((found - expected).abs().max()) <= limit * float(expected.std())


def test_decode_one_by_one(case: Case) -> None:
    ids = case.prompts["b"]
    runner = PagedRunner(case.model)
    runner.step({"b": ids[:5]})
    parts = [runner.step({"b": [token]})["b"] for token in ids[5:]]
    _assert_close(torch.cat(parts), case.reference.logits(ids)[5:])


def _check_greedy(case: Case, name: str, generated: list[int]) -> None:
    """Every token is the reference's best after what was generated before it."""
    ids = case.prompts[name] + generated
    scores = case.reference.logits(ids)[len(case.prompts[name]) - 1 : -1]
    best, chosen = scores.max(-1), scores[range(len(generated)), generated]
    # A token that scores within the tolerance of the best is as right as the best.
    assert [int(i) for i in best.indices] == generated or (best.values - chosen).max() < 2e-5


def test_greedy_alone(case: Case) -> None:
    runner = PagedRunner(case.model)
    token = int(runner.step({"a": case.prompts["a"]})["a"][-1].argmax())
    generated = [token]
    while len(generated) < NUM_NEW:
        token = int(runner.step({"a": [token]})["a"][-1].argmax())
        generated.append(token)
    assert len(set(generated)) > 1
    _check_greedy(case, "a", generated)


def test_greedy_batched(case: Case) -> None:
    """Three sequences that start at different steps, one of them in chunks."""
    prompts = case.prompts
    waiting = {"a": [prompts["a"]], "b": [prompts["b"][:6], prompts["b"][6:]], "c": [prompts["c"]]}
    start = {"a": 0, "b": 0, "c": 2}
    generated: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    runner = PagedRunner(case.model)
    for step in range(NUM_NEW + 4):
        chunks = {}
        for name in generated:
            if waiting[name] and step >= start[name]:
                chunks[name] = waiting[name].pop(0)
            elif generated[name] and len(generated[name]) < NUM_NEW:
                chunks[name] = [generated[name][-1]]
        if not chunks:
            break
        out = runner.step(chunks)
        for name in chunks:
            if not waiting[name]:
                generated[name].append(int(out[name][-1].argmax()))
    for name, tokens in generated.items():
        assert len(tokens) == NUM_NEW
        _check_greedy(case, name, tokens)


def test_bfloat16_is_as_close_as_transformers(case: Case) -> None:
    """Error of our bfloat16 against float32, beside the error of theirs."""
    ids = [*case.prompts["a"], *case.prompts["b"]]
    exact = case.reference.logits(ids)
    model = load_decoder(Checkpoint.open(case.folder), LoadOptions(torch.bfloat16, DEVICE))
    ours = PagedRunner(model, dtype=torch.bfloat16).step({"a": ids})["a"]
    rounded = deepcopy(case.reference.model).to(torch.bfloat16)
    theirs = replace(case.reference, model=rounded).logits(ids)

    def error(found: Tensor) -> float:
        return float((found - exact).square().mean().sqrt())

    assert error(ours) <= 1.5 * error(theirs)
    assert error(ours) > 0


def test_dynamic_rope_scales_each_sequence_by_its_own_length(tmp_path: Path) -> None:
    """64 positions are trained; a prompt of 90 scales, and does not touch its neighbour of 20."""
    long = torch.randint(3, VOCAB, (90,), generator=torch.Generator().manual_seed(6)).tolist()
    write(DYNAMIC, tmp_path)
    model = load_decoder(Checkpoint.open(tmp_path), LoadOptions(device=DEVICE))
    out = PagedRunner(model).step({"long": long, "short": long[:20]})
    runner = PagedRunner(model)
    lengths = {"long": 90}
    chunks = [runner.step({"long": long[i:j]}, lengths)["long"] for i, j in ((0, 50), (50, 90))]
    for name, ids in (("long", long), ("short", long[:20])):
        fresh = tmp_path / name
        fresh.mkdir()
        expected = write(DYNAMIC, fresh).logits(ids)
        _assert_close(out[name], expected)
        if name == "long":
            _assert_close(torch.cat(chunks), expected)
