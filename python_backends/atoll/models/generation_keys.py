"""What a checkpoint's files ask of every answer: applied, left to requests, or refused.

transformers' ``generate`` does what generation_config.json says (config.json, in older folders).
Tokens that may never come are banned here too; a beam search is the default of requests; what else
they decide is noted; what would change every answer and is not done here is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from atoll.errors import ConfigError, UnsupportedModel
from atoll.models import search_keys
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
    _FIRST, "begin_suppress_tokens", "constraints", "dola_layers",
    "encoder_no_repeat_ngram_size", "encoder_repetition_penalty",
    "exponential_decay_length_penalty", "force_words_ids", "forced_decoder_ids", "guidance_scale",
    "penalty_alpha", "sequence_bias", "stop_strings", "token_healing", "watermarking_config",
)  # fmt: skip
_LEFT_TO_REQUESTS: Mapping[str, Any] = {
    "diversity_penalty": 0.0, "do_sample": False, "early_stopping": False, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0, "forced_eos_token_id": None, "length_penalty": 1.0, "max_length": 20,
    "max_new_tokens": None, "min_length": 0, "min_new_tokens": None, "min_p": None,
    "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "renormalize_logits": False, "repetition_penalty": 1.0, "temperature": 1.0, "top_k": 50,
    "top_p": 1.0, "typical_p": 1.0,
}  # fmt: skip


class GenerationKeys(NamedTuple):
    """What the files ask of every answer.

    banned: ids that never come. left: name and value of what requests decide. first: the id that
    every answer of an encoder-decoder begins with. search: for answers, if they are searched for.
    """

    banned: tuple[int, ...]
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
    suppressed, words = (keys.get(name) for name in ("suppress_tokens", "bad_words_ids"))
    banned = [] if suppressed is None else [*_ids(file, "suppress_tokens", suppressed)]
    if not isinstance(words, list | None):
        raise ConfigError(f"{file}: bad_words_ids is {words!r}; expected lists of token ids")
    for word in words or []:
        found = _ids(file, "bad_words_ids", word)
        if len(found) != 1:
            raise UnsupportedModel(
                f"{folder}/{file}: bad_words_ids has {word!r}; only words of one token are "
                "supported"
            )
        banned += found
    left = [
        f"{name} {keys[name]!r}"
        for name, usual in _LEFT_TO_REQUESTS.items()
        if keys.get(name) not in (None, usual) and not (search and name in SearchKeys._fields)
    ]
    return GenerationKeys(tuple(sorted(set(banned))), tuple(left), first, search)


def _ids(file: str, name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(i) is int and i >= 0 for i in value):
        raise ConfigError(f"{file}: {name} holds {value!r}; expected token ids")
    return value
