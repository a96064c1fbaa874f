"""Options of beam search, under the names of transformers and vLLM.

A request searches if it says so by ``num_beams`` or ``use_beam_search``, or if the checkpoint's
files do and nothing that it asks for is in the way: sampling, a grammar, a watermark, a
conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from atoll.engine.limits import EngineLimits
from atoll.errors import ValidationError
from atoll.serving.requests.option_reader import OptionReader

CONSTRAINTS = (
    "grammar", "response_format", "guided_json", "guided_regex", "guided_grammar", "guided_choice",
)  # fmt: skip
# If any of these has another value, other than -1, the request samples.
_NEUTRAL: Mapping[str, float] = {"top_k": 0, "top_p": 1, "min_p": 0, "typical_p": 1}
# Beyond, a power of an answer's length is no number any more.
_MOST_PENALTY = 10.0
# Each is a candidate more for every beam and step.
_MOST_ENDS = 64


def does_sample(r: OptionReader) -> bool:
    """Greedy by default, as in TGI and transformers; temperature 0 is greedy."""
    if r.number("temperature", 1.0, 0.0) == 0.0:
        return False
    if r.has("do_sample"):
        return r.flag("do_sample", False)
    return r.has("temperature") or any(
        r.has(name) and r.number(name, 0) not in (neutral, -1) for name, neutral in _NEUTRAL.items()
    )


def with_search(
    values: Mapping[str, Any], limits: EngineLimits, *, is_conversation: bool
) -> Mapping[str, Any]:
    """A request's options with ``num_beams``, and what the files say of a search if it is one.

    Raises:
        ValidationError: options that contradict each other, or too many beams.
    """
    r = OptionReader(values)
    asked, obstacle = _asked(r, limits), _obstacle(r, is_conversation)
    default = 1 if obstacle else int(limits.search.get("num_beams", 1))
    width = default if asked is None else asked
    if width > 1 and obstacle:
        raise ValidationError(f"num_beams is {width}, which does not go with {obstacle}")
    if width > 1 and limits.has_states:
        raise ValidationError(
            f"num_beams is {width}; the model has recurrent layers, whose states beams cannot share"
        )
    if width > limits.max_beams:
        raise ValidationError(f"num_beams is {width}; the most allowed is {limits.max_beams}")
    ends = r.structure("stop_token_ids") if width > 1 else None
    if isinstance(ends, list) and len(ends) > _MOST_ENDS:
        raise ValidationError(
            f"stop_token_ids has {len(ends)} ids; with num_beams {width}, the most allowed is "
            f"{_MOST_ENDS}"
        )
    if width > 1:
        return {**limits.search, **values, "num_beams": width}
    if length_penalty(r) != 1.0 or early_stopping(r) is not False:
        name = "early_stopping" if length_penalty(r) == 1.0 else "length_penalty"
        raise ValidationError(
            f"{name} is {r.get(name)!r}, which is for a beam search; num_beams is 1"
        )
    return {**values, "num_beams": 1}


def length_penalty(r: OptionReader) -> float:
    """The power of an answer's length by which its score is divided."""
    return r.number("length_penalty", 1.0, -_MOST_PENALTY, _MOST_PENALTY)


def early_stopping(r: OptionReader) -> bool | Literal["never"]:
    """Whether a search ends with the first ``num_beams`` answers."""
    value = r.get("early_stopping")
    if value == "never":
        return "never"
    try:
        return r.flag("early_stopping", False)
    except ValidationError as error:
        raise ValidationError(f"{error} or 'never'") from None


def _asked(r: OptionReader, limits: EngineLimits) -> int | None:
    """The number of beams that a request asks for; None: it says nothing.

    vLLM's ``use_beam_search`` has as many as the request wants answers.
    """
    width, uses = r.integer("num_beams", None, 1), r.flag("use_beam_search", None)
    best_of = r.integer("best_of", None, 1)
    if uses is False and width is not None and width > 1:
        raise ValidationError(f"num_beams is {width}, and use_beam_search is false")
    if uses is False:
        return 1
    if uses and width is None:
        n = r.integer("n", 1, 1)
        width = best_of or (n if n > 1 else int(limits.search.get("num_beams", 1)))
    if width is not None and width > 1 and best_of not in (None, width):
        raise ValidationError(f"best_of is {best_of}, and num_beams is {width}; expected one width")
    return width


def _obstacle(r: OptionReader, is_conversation: bool) -> str | None:
    """What does not go with a search."""
    if does_sample(r):
        return "sampling (do_sample, temperature, top_k, top_p, min_p, typical_p)"
    if r.flag("watermark", False):
        return "watermark"
    if is_conversation:
        return "a conversation, whose turns continue what is in the cache"
    return next((name for name in CONSTRAINTS if r.has(name)), None)
