"""What a checkpoint's files ask of every answer: applied, left to requests, or refused.

transformers' ``generate`` does what generation_config.json says (config.json, in older folders).
Rules for an answer's tokens are applied (``answer_rules``); a beam search is the default of
requests; what else they decide is noted; what would change every answer and is not done here is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from atoll.errors import UnsupportedModel
from atoll.models import answer_rules, search_keys
from atoll.models.answer_rules import AnswerRules
from atoll.models.search_keys import SearchKeys
from atoll.weights.json_fields import MAX_SIZE, Fields
from atoll.weights.modules import read_object

# Values that change nothing.
_USUAL: Mapping[str, tuple[Any, ...]] = {
    "encoder_no_repeat_ngram_size": (0,), "encoder_repetition_penalty": (1,),
    "guidance_scale": (1,), "token_healing": (False,),
}  # fmt: skip
_FIRST = "forced_bos_token_id"
_REFUSED = (
    _FIRST, "constraints", "dola_layers",
    "encoder_no_repeat_ngram_size", "encoder_repetition_penalty",
    "exponential_decay_length_penalty", "force_words_ids", "forced_decoder_ids", "guidance_scale",
    "penalty_alpha", "sequence_bias", "stop_strings", "token_healing", "watermarking_config",
)  # fmt: skip
_LEFT_TO_REQUESTS: Mapping[str, Any] = {
    "diversity_penalty": 0.0, "do_sample": False, "early_stopping": False, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0, "length_penalty": 1.0, "max_length": 20,
    "max_new_tokens": None, "min_length": 0, "min_new_tokens": None, "min_p": None,
    "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "renormalize_logits": False, "repetition_penalty": 1.0, "temperature": 1.0, "top_k": 50,
    "top_p": 1.0, "typical_p": 1.0,
}  # fmt: skip


class GenerationKeys(NamedTuple):
    """What the files ask of every answer.

    rules: for its tokens. left: name and value of what requests decide. first: the id that every
    answer of an encoder-decoder begins with. search: for answers, if they are searched for.
    """

    rules: AnswerRules
    left: tuple[str, ...]
    first: int | None = None
    search: SearchKeys | None = None


def read(
    folder: Path, config: Mapping[str, Any], *, is_encoder_decoder: bool = False
) -> GenerationKeys:
    """The keys of generation_config.json, else of config.json.

    Args:
        is_encoder_decoder: whether answers may have a first token that the files name.

    Raises:
        ConfigError: a key has a value of another kind.
        UnsupportedModel: a key asks for what is not done here; names it.
    """
    path = folder / "generation_config.json"
    keys = read_object(path) if path.exists() else config
    file = path.name if path.exists() else "config.json"
    first, fields = None, Fields(keys, f"{folder}/{file}")
    size = Fields(config).size("vocab_size", default=MAX_SIZE)
    search = search_keys.read(fields, size)
    if is_encoder_decoder and fields.has(_FIRST):
        first = fields.token(_FIRST, vocab_size=size)
    for name in _REFUSED:
        value = None if name == _FIRST and first is not None else keys.get(name)
        if value not in (None, [], {}, *_USUAL.get(name, ())):
            raise UnsupportedModel(f"{folder}/{file}: {name} {value!r} is not supported")
    ends = keys.get("eos_token_id", config.get("eos_token_id"))
    rules = answer_rules.read(fields, size, ends, is_encoder_decoder=is_encoder_decoder)
    applied = (
        *(SearchKeys._fields if search else ()),
        *(["max_length"] if rules.max_length else []),
    )
    left = [
        f"{name} {keys[name]!r}"
        for name, usual in _LEFT_TO_REQUESTS.items()
        if keys.get(name) not in (None, usual) and name not in applied
    ]
    return GenerationKeys(rules, tuple(left), first, search)
