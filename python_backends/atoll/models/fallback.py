"""Any other generator, through transformers' own model: best effort, in the same engine.

The engine's features (continuous batching, chunks, shared prefixes, preemption) move blocks about,
which a foreign cache cannot follow. So the paged cache here holds token ids: every step knows each
sequence's whole text from its blocks, continues the transformers cache that was left after all but
the new tokens, and computes the text anew where there is none. Sequences run one by one.

Never runs a checkpoint's own code.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atoll.cgroup import available_memory
from atoll.errors import UnsupportedModel, WeightError
from atoll.layers.batch import Batch, CacheSpec, LayerCache, StateSpec
from atoll.models.fallback_choice import choose, read_config, shown
from atoll.weights.load import LoadOptions
from atoll.weights.reader import CheckpointReader

# Token ids in base 128: digits are exact in bfloat16, whatever dtype the cache has.
_BASE, _NUM_DIGITS = 128, 4
_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class Config:
    """What the engine asks of a config."""

    vocab_size: int
    max_positions: int
    decoder_start_token_id: int | None


def load(folder: Path, options: LoadOptions) -> Model:
    """The checkpoint as transformers loads it, once it has shown that it can go on with a text.

    Raises:
        UnsupportedModel: transformers cannot generate with it; names the architecture.
        WeightError: a file is missing or damaged, or lacks tensors.
    """
    import transformers

    if options.scheme != "dense":
        raise UnsupportedModel(f"{folder}: {options.scheme} weights need a model of our own")
    choice = choose(folder)
    raw = read_config(folder)
    name = shown(folder, raw)
    auto = transformers.AutoModelForCausalLM
    if raw.is_encoder_decoder:
        auto = transformers.AutoModelForSeq2SeqLM
    CheckpointReader(folder)  # names a file that is missing or damaged, as transformers does not
    try:
        model, report = auto.from_pretrained(
            folder, dtype=options.dtype, trust_remote_code=False, output_loading_info=True,
            device_map={"": options.device} if options.device.type == "cuda" else None,
        )  # fmt: skip
    except Exception as error:
        raise UnsupportedModel(f"{name}: transformers cannot load it: {error}") from error
    if report["missing_keys"]:
        # transformers would answer with random numbers in their place.
        missing = ", ".join(sorted(report["missing_keys"])[:4])
        raise WeightError(f"{name}: {missing} not in the checkpoint")
    return _checked(name, model.eval(), raw, choice.max_positions, options.dtype)


@torch.inference_mode()
def _checked(name: str, model: Any, raw: Any, max_positions: int, dtype: torch.dtype) -> Model:
    """Refuses what sees words ahead (BERT), or does not go on from its cache (XLNet)."""
    try:
        found = Model(model, raw, max_positions, dtype)
        text = tuple(range(3, 11))
        encoder = text if raw.is_encoder_decoder else ()
        whole = found._continue(text, 8, encoder).float()
        parts = [found._continue(text[:5], 5, encoder), found._continue(text, 3, encoder)]
        found.forget()
    except Exception as error:
        raise UnsupportedModel(
            f"{name}: transformers' {type(model).__name__} does not run in this engine: "
            f"{type(error).__name__}: {error}"
        ) from error
    # Rounding, and an expert chosen differently, stay far below what one word ahead changes.
    apart = (torch.cat(parts).float() - whole).square().mean().sqrt() / whole.std()
    if not apart < (0.01 if dtype == torch.float32 else 0.3):
        raise UnsupportedModel(
            f"{name}: transformers' {type(model).__name__} scores a text differently in parts "
            f"(by {float(apart):.2f} of their deviation): it is no decoder"
        )
    return found


class Model(nn.Module):
    """A transformers model behind our models' interface; ``encode`` is for encoder-decoders."""

    reads_on_host = True

    def __init__(self, model: Any, raw: Any, max_positions: int, dtype: torch.dtype) -> None:
        super().__init__()
        text = raw.get_text_config(decoder=True)
        start = _first_token(model, raw) if raw.is_encoder_decoder else None
        self.config = Config(text.vocab_size, max_positions, start)
        self.model = model
        named = "cache" in inspect.signature(model.forward).parameters
        # transformers before 5.24 has the older name.
        self._cache_name = "cache" if named else "past_key_values"
        self._caches: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._encoded: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._num_cached = 0
        # An upper bound: grouped heads need less.
        per_token = 2 * text.num_hidden_layers * text.hidden_size * dtype.itemsize
        self._max_cached = int(_free_bytes(model.device) * _MEMORY_SHARE) // per_token

    def cache_specs(self) -> list[CacheSpec]:
        """The paged cache holds token ids."""
        return [CacheSpec(1, _NUM_DIGITS)]

    def state_specs(self) -> list[StateSpec]:
        """None: the whole text is computed again."""
        return []

    def encode(self, batch: Batch) -> None:
        """Notes the encoder's inputs; ``forward`` runs the encoder when it first needs it."""
        _write(batch.kv_cache, batch.slot_mappings[0], batch.input_ids)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, vocab): the logits, since transformers' heads cannot be had apart."""
        _write(batch.kv_cache, batch.slot_mappings[0], batch.input_ids)
        starts = batch.cu_seqlens.tolist()
        assert batch.block_tables is not None and batch.seq_lens is not None
        texts = _read(batch.kv_cache, batch.block_tables[0], batch.seq_lens)
        inputs: list[tuple[int, ...]] = [()] * len(texts)
        if batch.cross is not None:
            inputs = _read(batch.kv_cache, batch.cross.block_table, batch.cross.seq_lens)
        rows = [
            self._continue(text, starts[i + 1] - starts[i], inputs[i])
            for i, text in enumerate(texts)
        ]
        return torch.cat(rows)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, vocab) -> the same, float32."""
        return hidden.float()

    def forget(self) -> None:
        """Frees every cache."""
        self._caches.clear()
        self._encoded.clear()
        self._num_cached = 0

    def _continue(self, text: tuple[int, ...], num_new: int, encoder: tuple[int, ...]) -> Tensor:
        """Logits of the last ``num_new`` tokens, (num_new, vocab)."""
        cache, num_cached = self._caches.pop((text[:-num_new], encoder), (None, 0))
        self._num_cached -= num_cached
        device = self.model.device
        ids = torch.tensor([text if cache is None else text[-num_new:]], device=device)
        if encoder:
            out = self.model(
                encoder_outputs=self._encode(encoder), decoder_input_ids=ids,
                attention_mask=torch.ones(1, len(encoder), dtype=torch.int64, device=device),
                use_cache=True, **{self._cache_name: cache},
            )  # fmt: skip
        else:
            mask = torch.ones(1, len(text), dtype=torch.int64, device=device)
            out = self.model(ids, attention_mask=mask, use_cache=True, **{self._cache_name: cache})
        self._keep((text, encoder), getattr(out, self._cache_name, None), len(text))
        logits: Tensor = out.logits[0, -num_new:]
        return logits

    def _keep(self, key: Hashable, cache: Any, num_tokens: int) -> None:
        """Remembers a cache, and forgets the longest unused beyond the memory's share."""
        if cache is None or not _is_attention(cache):
            return
        self._caches[key] = (cache, num_tokens)
        self._num_cached += num_tokens
        while self._num_cached > self._max_cached and len(self._caches) > 1:
            self._num_cached -= self._caches.popitem(last=False)[1][1]

    def _encode(self, ids: tuple[int, ...]) -> Any:
        """The encoder's output for a text, computed once while it is in use."""
        if ids not in self._encoded:
            encoder = self.model.get_encoder()
            self._encoded[ids] = encoder(torch.tensor([ids], device=self.model.device))
            if len(self._encoded) > 512:
                self._encoded.popitem(last=False)
        self._encoded.move_to_end(ids)
        return self._encoded[ids]


def _is_attention(cache: Any) -> bool:
    """Whether any number of tokens can follow; a recurrent state takes one, and without a mask."""
    parts = [
        getattr(cache, name, None) for name in ("self_attention_cache", "cross_attention_cache")
    ]
    caches = [part for part in parts if part is not None] or [cache]
    layers = [layer for part in caches for layer in getattr(part, "layers", ())]
    return bool(layers) and not any(hasattr(layer, "recurrent_states") for layer in layers)


def _first_token(model: Any, raw: Any) -> int:
    """What an answer begins with: transformers' choice, else T5's."""
    names = ("decoder_start_token_id", "bos_token_id")
    found = [getattr(model.generation_config, name, None) for name in names]
    found += [getattr(raw, name, None) for name in (*names, "pad_token_id")]
    return next((int(token) for token in found if token is not None), 0)


def _write(kv_cache: tuple[LayerCache, ...], slots: Tensor, ids: Tensor) -> None:
    keys = kv_cache[0].keys
    digits = ids.unsqueeze(1) // _BASE ** torch.arange(_NUM_DIGITS, device=ids.device) % _BASE
    kept = slots >= 0
    keys.view(-1, _NUM_DIGITS)[slots[kept]] = digits[kept].to(keys.dtype)


def _read(
    kv_cache: tuple[LayerCache, ...], block_table: Tensor, lengths: Tensor
) -> list[tuple[int, ...]]:
    """The token ids of every sequence."""
    keys = kv_cache[0].keys
    powers = _BASE ** torch.arange(_NUM_DIGITS, device=keys.device)
    found = []
    for blocks, length in zip(block_table.long(), lengths.tolist(), strict=True):
        used = blocks[: -(-length // keys.shape[1])]
        ids = (keys[used].view(-1, _NUM_DIGITS)[:length].long() * powers).sum(1)
        found.append(tuple(ids.tolist()))
    return found


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()
