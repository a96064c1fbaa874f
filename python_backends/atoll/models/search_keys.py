"""How a checkpoint's files have answers searched for: the defaults of its requests."""

from __future__ import annotations

from typing import Literal, NamedTuple

from atoll.weights.json_fields import Fields


class SearchKeys(NamedTuple):
    """Keys of a beam search, which are options of requests under the same names."""

    num_beams: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    no_repeat_ngram_size: int = 0
    forced_eos_token_id: int | None = None

    def __str__(self) -> str:
        usual = SearchKeys(1)
        changed = ((n, v) for n, v in self._asdict().items() if v != getattr(usual, n))
        return ", ".join(f"{name} {value!r}" for name, value in changed)


def notes(search: SearchKeys | None, most: int) -> tuple[str, ...]:
    """What a user should know of it. most: beams that a request may have."""
    if search is None:
        return ()
    if search.num_beams > most:
        return (
            f"answers are greedy: its files ask for a search with num_beams {search.num_beams}; "
            f"max_beams and max_batch_size allow {most}",
        )
    return (
        f"answers are searched for, as its files say, with {search}: num_beams 1 in a request is "
        "greedy",
    )


def read(fields: Fields, vocab_size: int) -> SearchKeys | None:
    """The keys of generation_config.json; None: answers are not searched for, or in a way that is
    left to requests (several groups of beams, or beams that are sampled).

    Raises:
        ConfigError: a key has a value of another kind.
    """
    num_beams = fields.size("num_beams", default=1, nullable=True)
    num_groups = fields.size("num_beam_groups", default=1, nullable=True)
    is_sampled = fields.flag("do_sample", default=False, nullable=True)
    if num_beams == 1 or num_groups > 1 or is_sampled:
        return None
    forced = None
    if fields.has("forced_eos_token_id"):
        forced = fields.token("forced_eos_token_id", vocab_size=vocab_size)
    return SearchKeys(
        num_beams,
        fields.number("length_penalty", default=1.0, nullable=True, above=None),
        fields.only("early_stopping", False, True, "never"),
        fields.count("no_repeat_ngram_size", default=0, nullable=True),
        forced,
    )
