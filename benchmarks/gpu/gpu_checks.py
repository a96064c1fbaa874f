"""Every GPU kernel compared with float64: dtypes, edge shapes, outputs filled with NaN beforehand.

Errors and tolerances are shares of the largest value of the float64 result, as in the tests in
``tests/kernels/gpu/interpreted``, but at sizes that fill a GPU's tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from gpu_family_checks import latent_cache, mxfp4_experts, mxfp4_linear
from gpu_inputs import Heads, cu_seqlens, dense
from gpu_measure import DTYPES, Bench, Row, attempt
from gpu_pairs import Check, Pair, run
from interpreted import DEVICE, TOLERANCES, randn, wide
from torch import Tensor

from atoll_kernels import Routing, reference
from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.attention import AttentionArgs, PagedKV, alibi_slopes
from atoll_kernels.gpu import activation, flash, moe, norm, quantized, rope, sampling


@dataclass(frozen=True)
class Sizes:
    """Shapes of a run. lengths: of sequences, one empty. contexts: keys per sequence, one has 0.

    latents: query heads, and widths of a latent row's values and its rest.
    """

    rows: int
    hidden: int
    lengths: tuple[int, ...]
    contexts: tuple[int, ...]
    heads: dict[str, Heads]
    window: int
    inter: int
    vocab: int
    latents: tuple[tuple[int, tuple[int, int]], ...]


_HEADS = {
    "d64": Heads(12, 12, 64), "d80": Heads(8, 8, 80), "gqa-d128": Heads(32, 8, 128),
    "mqa-48": Heads(48, 1, 128), "d256": Heads(8, 1, 256),
}  # fmt: skip
_DRY_HEADS = {"d16": Heads(2, 1, 16), "d80": Heads(1, 1, 80)}
FULL = Sizes(129, 4096, (1, 700, 0, 129, 2048), (1, 4000, 0, 513, 128), _HEADS, 256, 1536, 32000,
             ((16, (512, 64)), (128, (512, 64))))  # fmt: skip
DRY = Sizes(3, 48, (17, 0, 1), (1, 20, 0), _DRY_HEADS, 7, 32, 300, ((3, (16, 8)),))
HALF_ONLY = ("paged_latent",)
MASKS = ("full", "causal", "window", "causal-window", "alibi", "causal-alibi", "relative",
         "causal-sinks")  # fmt: skip


def correctness(bench: Bench) -> Iterator[Row]:
    """Rows: kernel, case, dtype, error, tolerance, correct; or why a case failed."""
    seen: set[str] = set()
    for kernel, case, check in _cases(bench.choose(FULL, DRY)):
        # The interpreter is slow: a dry run uses half precision only for a kernel's first case.
        is_whole = not bench.is_dry or kernel not in seen
        seen.add(kernel)
        for name, dtype in DTYPES.items() if is_whole else [("fp32", torch.float32)]:
            if kernel in HALF_ONLY and dtype == torch.float32:
                continue
            row: Row = {"kernel": kernel, "case": case, "dtype": name}
            yield attempt({**row, "correct": False}, partial(_judge, check, dtype))
        bench.release()


def _judge(check: Check, dtype: torch.dtype) -> Row:
    found, expected = check(dtype)
    # Ids must be equal; everything else may be rounded.
    tolerance = TOLERANCES[dtype] if found[0].is_floating_point() else 0.0
    error = max(map(_error, found, expected))
    return {"error": error, "tolerance": tolerance, "correct": error <= tolerance}


def _error(found: Tensor, expected: Tensor) -> float:
    """The largest difference; infinite if a value is missing."""
    assert found.shape == expected.shape, f"{tuple(found.shape)}, not {tuple(expected.shape)}"
    if not found.numel():
        return 0.0
    scale = max(1.0, float(expected.abs().max()))
    error = float((found.double() - expected.double()).abs().max()) / scale
    return error if error == error else float("inf")


def _cases(sizes: Sizes) -> Iterator[tuple[str, str, Check]]:
    for rms in (False, True):
        for residual in (False, True):
            case = "residual" if residual else "plain"
            yield "rms_norm" if rms else "layer_norm", case, partial(_norm, sizes, rms, residual)
    for name in ("gelu", "gelu_new", "silu", "relu"):
        yield "activate", name, partial(_activate, sizes, name, False)
    yield "gated_activation", "silu", partial(_activate, sizes, "silu", True)
    for name, half in (("whole", 16), ("partial", 4)):
        yield "apply_rope", name, partial(_rope, sizes, half)
    yield "rope_write_kv", "slot -1", partial(_rope_write, sizes, True)
    yield "write_kv", "slot -1", partial(_rope_write, sizes, False)
    first = next(iter(sizes.heads.values()))
    for mask in MASKS:
        yield "varlen_attention", mask, partial(_varlen, sizes, first, mask)
    for name, heads in sizes.heads.items():
        yield "varlen_attention", f"causal {name}", partial(_varlen, sizes, heads, "causal")
        yield "paged_decode", f"causal {name}", partial(_paged, sizes, heads, "causal", True)
    for mask in ("causal", "causal-window", "causal-alibi", "causal-window-sinks"):
        yield "paged_prefill", mask, partial(_paged, sizes, first, mask, False)
        case = f"{mask} of several lengths"
        yield "paged_decode", case, partial(_paged, sizes, first, mask, True)
    for rows in (1, sizes.rows):
        for order in (False, True):
            case = f"{rows} rows" + (", act-order" if order else "")
            yield "linear int4", case, partial(_int4, sizes, rows, order)
        yield "linear int8", f"{rows} rows", partial(_int8, sizes, rows)
        yield "mixture_of_experts", f"{rows} rows", partial(_experts, sizes, rows)
        shape = (rows, sizes.hidden - 7, 2 * sizes.inter)
        yield "linear mxfp4", f"{rows} rows", partial(mxfp4_linear, *shape)
        mxfp4 = partial(mxfp4_experts, rows, 2 * sizes.inter, sizes.inter)
        yield "mixture_of_experts", f"{rows} rows, mxfp4", mxfp4
    for num_heads, widths in sizes.latents:
        latents = partial(latent_cache, num_heads, widths, sizes.contexts)
        yield "paged_latent", f"{num_heads} heads", latents
    for limits in ("none", "top-k", "top-p", "both"):
        yield "sample", limits, partial(_sample, sizes, limits)


def _norm(sizes: Sizes, rms: bool, has_residual: bool, dtype: torch.dtype) -> Pair:
    x = 3 * randn(sizes.rows, sizes.hidden, seed=1, dtype=dtype) + 1
    residual = randn(sizes.rows, sizes.hidden, seed=2, dtype=dtype) if has_residual else None
    weight = (randn(sizes.hidden, seed=3, dtype=dtype),)
    weights = weight if rms else (*weight, randn(sizes.hidden, seed=4, dtype=dtype))
    name = "rms_norm" if rms else "layer_norm"
    found = run(getattr(norm, name), x, *weights, 1e-5, residual)
    exact = getattr(reference, name)(wide(x), *map(wide, weights), 1e-5, wide(residual))
    return found, exact


def _activate(sizes: Sizes, name: str, is_gated: bool, dtype: torch.dtype) -> Pair:
    x = 3 * randn(sizes.rows, 2 * sizes.hidden, seed=1, dtype=dtype)
    kind = "gated_activation" if is_gated else "activate"
    found = run(getattr(activation, kind), x, name)
    return (found,), (getattr(reference, kind)(x.double(), name),)


def _rope(sizes: Sizes, half: int, dtype: torch.dtype) -> Pair:
    x = randn(sizes.rows, 5, 2 * 16, seed=1, dtype=dtype)
    positions = torch.arange(sizes.rows, device=DEVICE).flip(0)
    angles = randn(sizes.rows, half, seed=5)
    exact = reference.apply_rope(x.double(), positions, angles.cos(), angles.sin())
    return (run(rope.apply_rope, x, positions, angles.cos(), angles.sin()),), (exact,)


def _rope_write(sizes: Sizes, rotates: bool, dtype: torch.dtype) -> Pair:
    """Every second token is written, to its own slot; the slot of the others is -1."""
    rows, block_size = sizes.rows, 16
    q, k, v = randn(rows, 15, 32, seed=1, dtype=dtype).split(5, dim=1)
    slots = torch.arange(rows, device=DEVICE).flip(0)
    slots[1::2] = -1
    positions, angles = torch.arange(rows, device=DEVICE), randn(rows, 16, seed=5)
    tables = (angles.cos(), angles.sin())
    shape = (rows // block_size + 1, block_size, 5, 32)
    caches = [torch.full(shape, 7.0, dtype=dtype, device=DEVICE) for _ in "kv"]
    exact = [cache.double() for cache in caches]
    wide_q, wide_k = q.double(), k.double()
    if rotates:
        wide_q, wide_k = (reference.apply_rope(x, positions, *tables) for x in (wide_q, wide_k))
    reference.write_kv(wide_k, v.double(), *exact, slots)
    if rotates:
        q, k = q.clone(), k.clone()
        run(rope.rope_write_kv, q, k, v, positions, *tables, *caches, slots)
    else:
        run(rope.write_kv, k, v, *caches, slots)
    return (q, k, *caches), (wide_q, wide_k, *exact)


def _options(sizes: Sizes, heads: Heads, mask: str) -> AttentionArgs:
    return AttentionArgs(
        scale=heads.scale,
        causal="causal" in mask,
        window=sizes.window if "window" in mask else None,
        alibi_slopes=alibi_slopes(heads.num_heads).to(DEVICE) if "alibi" in mask else None,
        relative_bias=randn(heads.num_heads, 21, seed=9) if mask == "relative" else None,
        sinks=randn(heads.num_heads, seed=8) if "sinks" in mask else None,
    )


def _varlen(sizes: Sizes, heads: Heads, mask: str, dtype: torch.dtype) -> Pair:
    num_heads, num_kv_heads, head_dim = heads
    ends = cu_seqlens(sizes.lengths, DEVICE)
    qkv = randn(sum(sizes.lengths), num_heads + 2 * num_kv_heads, head_dim, seed=1, dtype=dtype)
    parts = qkv.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
    given = _options(sizes, heads, mask)
    found = run(flash.varlen, *parts, ends, ends, given)
    exact = reference.varlen_attention(*map(wide, parts), ends, ends, given)
    return (found,), (exact,)


def _paged(sizes: Sizes, heads: Heads, mask: str, is_decode: bool, dtype: torch.dtype) -> Pair:
    """Shuffled blocks; unused parts are NaN for the kernel and 0 for the reference."""
    num_heads, num_kv_heads, head_dim = heads
    lengths, block_size = sizes.contexts, 16
    counts = tuple(1 if is_decode else min(n, max(n // 3, 1)) for n in lengths)
    needed = [-(-n // block_size) for n in lengths]
    blocks = torch.randperm(sum(needed), generator=torch.Generator().manual_seed(3)).int()
    table = torch.full((len(lengths), max(needed)), -1, dtype=torch.int32)
    held = torch.zeros(sum(needed), block_size, dtype=torch.bool)
    for row, own in enumerate(blocks.split(needed)):
        table[row, : len(own)] = own
        held[own.long()] = (torch.arange(len(own) * block_size) < lengths[row]).view(-1, block_size)
    shape = (sum(needed), block_size, num_kv_heads, head_dim)
    caches = [
        randn(*shape, seed=seed, dtype=dtype).masked_fill(
            ~held.to(DEVICE)[..., None, None], float("nan")
        )
        for seed in (1, 2)
    ]
    q = randn(sum(counts), num_heads, head_dim, seed=3, dtype=dtype)
    rest = (table.to(DEVICE), torch.tensor(lengths, dtype=torch.int32, device=DEVICE))
    ends, given = cu_seqlens(counts, DEVICE), _options(sizes, heads, mask)
    op = flash.paged_decode if is_decode else flash.paged_prefill
    found = run(op, q, PagedKV(*caches, *rest), ends, given)
    whole = PagedKV(*(cache.nan_to_num().double() for cache in caches), *rest)
    return (found,), (reference.paged_attention(q.double(), whole, ends, given),)


def _int4(sizes: Sizes, rows: int, act_order: bool, dtype: torch.dtype) -> Pair:
    inputs, outputs, group = 4 * sizes.inter, sizes.hidden - 7, 32
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 16, (inputs, outputs), generator=generator, dtype=torch.int32)
    zeros = torch.randint(0, 17, (inputs // group, outputs), generator=generator)
    scales = ((torch.rand(inputs // group, outputs, generator=generator) + 0.1) / 16).half()
    groups = torch.arange(inputs) // group
    if act_order:
        groups = groups[torch.randperm(inputs, generator=generator)]
    parts = [part.to(DEVICE) for part in (codes, zeros, scales, groups)]
    codes, zeros, scales, groups = parts
    bias = randn(outputs, seed=2, dtype=dtype)
    packed = quantized.pack_int4(*parts, bias, dtype)
    assert packed is not None, "not packed"
    x = randn(rows, inputs, seed=3, dtype=dtype)
    weight = scales.double()[groups] * (codes - zeros[groups]).double()
    return (run(packed.forward, x),), (x.double() @ weight + bias.double(),)


def _int8(sizes: Sizes, rows: int, dtype: torch.dtype) -> Pair:
    weight = randn(sizes.hidden - 7, 4 * sizes.inter, seed=1, dtype=dtype)
    bias = randn(len(weight), seed=2, dtype=dtype)
    packed = quantized.pack_linear(weight, bias, "int8", 32)
    assert packed is not None, "not packed"
    x = randn(rows, weight.shape[1], seed=3, dtype=dtype)
    codes, scales = packed.tensors
    exact = x.double() @ (codes.double() * scales.double()) + bias.double()
    return (run(packed.forward, x, "gelu"),), (ACTIVATIONS["gelu"](exact),)


def _experts(sizes: Sizes, rows: int, dtype: torch.dtype) -> Pair:
    """Eight experts, two for each token."""
    hidden, inter = 2 * sizes.inter, sizes.inter

    def layers(outputs: int, inputs: int, seed: int) -> list[Tensor]:
        weights = [randn(outputs, inputs, seed=seed + i, dtype=dtype) for i in range(8)]
        return [weight * inputs**-0.5 for weight in weights]

    up, down = layers(2 * inter, hidden, 10), layers(hidden, inter, 50)
    x, logits = randn(rows, hidden, seed=3, dtype=dtype), randn(rows, 8, seed=4, dtype=dtype)
    wide_sides = (dense([w.double() for w in side]) for side in (up, down))
    loop = reference.pack_experts(x, *wide_sides)
    exact = loop.forward(x.double(), logits.double(), Routing(2), "silu")
    experts = moe.pack_experts(x, dense(up), dense(down))
    assert experts is not None, "not packed"
    return (run(experts.forward, x, logits, Routing(2), "silu"),), (exact,)


def _sample(sizes: Sizes, limits: str, dtype: torch.dtype) -> Pair:
    """Token ids, which must equal those of the reference, which sorts."""
    rows = sizes.rows // 2 + 1
    logits = (2 * randn(rows, sizes.vocab, seed=1)).to(dtype)
    temperature = torch.linspace(0.5, 1.5, rows, device=DEVICE)
    top_k = torch.full((rows,), 40, dtype=torch.int32, device=DEVICE)
    top_p = torch.full((rows,), 0.9, device=DEVICE)
    generator = torch.Generator().manual_seed(2)
    uniforms = torch.rand(rows, generator=generator, dtype=torch.float64).to(DEVICE)
    given = (
        temperature, top_k if limits in ("top-k", "both") else None,
        top_p if limits in ("top-p", "both") else None, uniforms,
    )  # fmt: skip
    return (run(sampling.sample, logits, *given),), (reference.sample(logits.float(), *given),)
