"""Any other encoder, through transformers' own model: best effort, behind our trunks' interface.

A packed batch is taken apart into groups of texts of similar length, which are padded, run and
packed again. Where padding would change a text's result (convolutions, Fourier transforms), which
is tried when the model is loaded, only texts of one length share a group.

Never runs a checkpoint's own code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from atoll.errors import UnsupportedModel, WeightError
from atoll.layers.batch import Batch
from atoll.models.fallback_choice import read_config, shown
from atoll.models.fallback_encoder_choice import EncoderChoice, choose
from atoll.weights.load import LoadOptions
from atoll.weights.reader import CheckpointReader

T = TypeVar("T")

# Padded tokens of a group: scores of words take the most memory for each.
_GROUP_TOKENS, _GROUP_TOKENS_SCORED = 4096, 512
# Relative error of a padded text's result that is rounding; more is another result.
_ROUNDING = {torch.float32: 1e-4}
_ROUNDING_HALF = 0.05


@dataclass(frozen=True)
class Config:
    """What encoders ask of a trunk's config. num_token_types: None: the config does not say."""

    vocab_size: int
    hidden_size: int
    num_token_types: int | None


def load(folder: Path, options: LoadOptions, task: str) -> Model:
    """The checkpoint as transformers loads it, once it has shown that it runs.

    Args:
        task: "embed", "sparse", "classify", "rerank" or "token_classify": with which head.

    Raises:
        UnsupportedModel: transformers cannot run it; names the architecture.
        WeightError: a file is missing or damaged, or its tensors are not the model's.
    """
    import transformers

    if options.scheme != "dense" or options.expected_method is not None:
        raise UnsupportedModel(f"{folder}: quantisation needs a model of our own")
    choice, raw = choose(folder, task), read_config(folder)
    name = shown(folder, raw)
    CheckpointReader(folder)  # names a file that is missing or damaged, as transformers does not
    try:
        model, report = getattr(transformers, choice.class_name).from_pretrained(
            folder, dtype=options.dtype, trust_remote_code=False, output_loading_info=True,
            device_map={"": options.device} if options.device.type == "cuda" else None,
        )  # fmt: skip
    except Exception as error:
        raise UnsupportedModel(f"{name}: transformers cannot load it: {error}") from error
    _check_tensors(name, report, task)
    found = Model(model.eval(), raw, choice, task)
    try:
        found.can_pad = found.is_alike_padded()
    except Exception as error:
        raise UnsupportedModel(
            f"{name}: transformers' {choice.class_name} does not run on texts alone: "
            f"{type(error).__name__}: {error}"
        ) from error
    return found


def _check_tensors(name: str, report: Any, task: str) -> None:
    """Raises WeightError: transformers would go on with random numbers, or without a layer."""
    missing = [key for key in report["missing_keys"] if task != "embed" or "pooler." not in key]
    if missing:
        raise WeightError(f"{name}: {', '.join(sorted(missing)[:4])} not in the checkpoint")
    # Heads for other tasks have no numbered layers; a generator's decoder is left out of T5.
    left = [
        key
        for key in report["unexpected_keys"]
        if any(part.isdecimal() for part in key.split(".")) and not key.startswith("decoder.")
    ]
    if left:
        raise WeightError(f"{name}: left over: {', '.join(sorted(left)[:4])}")


class Model(nn.Module):
    """A transformers model behind our trunks' interface, its head included.

    can_pad: whether texts of different lengths may share a group.
    """

    def __init__(self, model: Any, raw: Any, choice: EncoderChoice, task: str) -> None:
        super().__init__()
        known = inspect.signature(model.forward).parameters
        has_types = "token_type_ids" in known
        num_token_types = getattr(raw, "type_vocab_size", None) if has_types else 0
        self.config = Config(int(raw.vocab_size), choice.hidden_size, num_token_types)
        self.model, self.max_length, self.can_pad = model, choice.max_positions, True
        self._scores_texts = task in ("classify", "rerank")
        self._group_tokens = _GROUP_TOKENS_SCORED if task == "sparse" else _GROUP_TOKENS
        self._padding = getattr(raw, "pad_token_id", None) or 0
        # A decoder's would be made, and thrown away.
        self._options = {"use_cache": False} if "use_cache" in known else {}
        self._has_mask = "attention_mask" in known

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden), or logits: (num_seqs, labels), of a tagger (tokens, labels)."""
        rows = self.each(batch, lambda found: found)
        return torch.stack(rows) if self._scores_texts else torch.cat(rows)

    def each(self, batch: Batch, reduce: Callable[[Tensor], T]) -> list[T]:
        """``reduce`` of every text's result, in the batch's order.

        A result is (tokens, hidden), (tokens, vocab or labels) with a head for tokens, or
        (labels,); no more than a group's are in memory at once.
        """
        bounds = batch.cu_seqlens.tolist()
        found: dict[int, T] = {}
        for group in self._groups([b - a for a, b in zip(bounds[:-1], bounds[1:], strict=True)]):
            spans = [slice(bounds[index], bounds[index + 1]) for index in group]
            out = self._run(batch, spans)
            for index, span, row in zip(group, spans, out, strict=True):
                result = row if self._scores_texts else row[: span.stop - span.start]
                found[index] = reduce(result)
        return [found[index] for index in range(len(bounds) - 1)]

    @torch.inference_mode()
    def is_alike_padded(self) -> bool:
        """Whether a text's result is the same beside a longer one."""
        device = self.model.device
        count = min(self.max_length, 24)
        ids = torch.arange(count + (count + 1) // 2, device=device) * 7 % self.config.vocab_size
        ids[ids == self._padding] += 1 if self._padding == 0 else -1
        alone = Batch(
            input_ids=ids[count:], positions=torch.arange(len(ids) - count, device=device),
            cu_seqlens=torch.tensor([0, len(ids) - count], device=device), max_position=count,
        )  # fmt: skip
        both = Batch(
            input_ids=ids, positions=torch.arange(len(ids), device=device),
            cu_seqlens=torch.tensor([0, count, len(ids)], device=device), max_position=count,
        )  # fmt: skip
        self.can_pad = True
        (wanted,) = self.each(alone, lambda rows: rows.float())
        padded = self.each(both, lambda rows: rows.float())[1]
        if not self._scores_texts and len(wanted) != len(ids) - count:
            raise UnsupportedModel(f"{len(ids) - count} tokens have {len(wanted)} vectors")
        error = (padded - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
        return bool(error < _ROUNDING.get(self.model.dtype, _ROUNDING_HALF))

    def _groups(self, lengths: list[int]) -> Iterator[list[int]]:
        """Indices of texts that are run together, the shortest first."""
        group: list[int] = []
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            longest = lengths[index]
            is_full = bool(group) and longest * (len(group) + 1) > self._group_tokens
            if is_full or (group and not self.can_pad and lengths[group[-1]] != longest):
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    def _run(self, batch: Batch, spans: list[slice]) -> Tensor:
        """(texts, longest, width), or (texts, labels)."""
        texts = [batch.input_ids[span] for span in spans]
        inputs = {"input_ids": pad_sequence(texts, True, float(self._padding))}
        if self._has_mask:
            ones = [torch.ones_like(text) for text in texts]
            inputs["attention_mask"] = pad_sequence(ones, batch_first=True)
        types = batch.token_type_ids
        if self.config.num_token_types != 0 and types is not None:
            rows = [types[span] for span in spans]
            inputs["token_type_ids"] = pad_sequence(rows, batch_first=True)
        out = self.model(**inputs, **self._options)
        found: Tensor = out.logits if hasattr(out, "logits") else out.last_hidden_state
        return found
