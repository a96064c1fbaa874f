"""The tokens by which Whisper is told what to write, and by which it tells languages and times.

Source: the keys of generation_config.json that transformers' ``WhisperGenerationMixin`` reads. An
answer begins with the start, the language, the task and, where it shall have no times, a token that
says so; texts that come before it stand in front, behind a token of their own. A time is a token
for each 0.02 s of a window.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.errors import ConfigError, UnsupportedModel, ValidationError
from atoll.weights.json_fields import Fields
from atoll.weights.modules import read_object

# Seconds from a time to the next.
TIME_STEP = 0.02
TASKS = ("transcribe", "translate")
_FILE = "generation_config.json"
_TOKEN = re.compile(r"^<\|(\w+)\|>$")
# What would change answers, and is not done here: their values that change nothing.
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "condition_on_prev_tokens": (False,), "compression_ratio_threshold": (),
    "logprob_threshold": (), "no_speech_threshold": (), "num_beams": (1,),
    "repetition_penalty": (1, 1.0), "no_repeat_ngram_size": (0,), "bad_words_ids": ([],),
    "sequence_bias": ({},), "forced_bos_token_id": (), "guidance_scale": (1, 1.0),
}  # fmt: skip


@dataclass(frozen=True)
class SpeechTokens:
    """start, no_times: ids. previous: what texts before an answer begin with; None: there are none.

    languages: the token of each code. tasks: that of each task. Both are empty in a model of
    English alone. language, task: of requests that name none; None: detected, or the first.
    suppressed, suppressed_first: ids that never come, and not as the first of an answer.
    max_first_time: the largest number of the first time; None: any. max_answer_tokens: of a window;
    None: as many as the model has positions.
    """

    vocab_size: int
    start: int
    no_times: int
    ends: frozenset[int]
    previous: int | None
    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    language: str | None
    task: str
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    max_first_time: int | None
    max_answer_tokens: int | None

    @classmethod
    def read(cls, folder: Path, vocab_size: int, start: int) -> SpeechTokens:
        """What the files say.

        Args:
            start: decoder_start_token_id.

        Raises:
            ConfigError: a key is missing, or has a value of another kind.
            UnsupportedModel: a key asks for what is not done here; names it.
        """
        raw = read_object(folder / _FILE)
        f = Fields(raw, f"{folder}/{_FILE}")
        for name, usual in _REFUSED.items():
            if raw.get(name) is not None and raw[name] not in usual:
                raise UnsupportedModel(f"{f.source}: {name} {raw[name]!r} is not supported")
        no_times = f.token("no_timestamps_token_id", vocab_size=vocab_size)
        ends = _ends(f, vocab_size)
        if max(ends) > no_times or no_times + 1 >= vocab_size:
            raise ConfigError(
                f"{f.source}: no_timestamps_token_id is {no_times}; expected more than "
                f"eos_token_id, {sorted(ends)}, and times behind it, of {vocab_size} tokens"
            )
        is_multilingual = f.flag("is_multilingual", default=f.has("lang_to_id"), nullable=True)
        languages, tasks = dict[str, int](), dict[str, int]()
        if is_multilingual:
            languages = {
                name.removeprefix("<|").removesuffix("|>"): index
                for name, index in _ids(f, "lang_to_id", vocab_size).items()
            }
            tasks = _ids(f, "task_to_id", vocab_size)
            if set(tasks) != set(TASKS):
                raise f.wrong(f"a token for each of {', '.join(TASKS)}", "task_to_id")
        previous = None
        if f.has("prev_sot_token_id"):
            previous = f.token("prev_sot_token_id", vocab_size=vocab_size)
        most = None
        if f.has("max_initial_timestamp_index"):
            most = f.count("max_initial_timestamp_index")
        language, task = _forced(f, languages, tasks, no_times)
        return cls(
            vocab_size, start, no_times, ends, previous, languages, tasks, language,
            task, _listed(f, "suppress_tokens", vocab_size),
            _listed(f, "begin_suppress_tokens", vocab_size), most,
            f.size("max_length") if f.has("max_length") else None,
        )  # fmt: skip

    @property
    def first_time(self) -> int:
        """The id of the time 0; all that follow are times, too."""
        return self.no_times + 1

    def code(self, given: str) -> str:
        """The code of the language that a request names by its code, its English name or, as files
        do, its token.

        Raises:
            ValidationError: the model does not know it; or it knows English alone.
        """
        name = _TOKEN.sub(r"\1", given.lower())
        if not self.languages:
            if name in ("en", "english"):
                return "en"
            raise ValidationError(f"language is {given!r:.80}; this model is of English alone")
        found = name if name in self.languages else _codes().get(name)
        if found not in self.languages:
            raise ValidationError(
                f"language is {given!r:.80}, which is none of the model's "
                f"{len(self.languages)} languages: {', '.join(sorted(self.languages))}"
            )
        return str(found)

    def prompt(self, language: str | None, task: str, has_times: bool) -> tuple[int, ...]:
        """What an answer begins with, as far as it is known: without a language the start alone."""
        if not self.languages:
            return (self.start,) if has_times else (self.start, self.no_times)
        if language is None:
            return (self.start,)
        told = (self.start, self.languages[language], self.tasks[task])
        return told if has_times else (*told, self.no_times)


def english_name(code: str) -> str:
    """What English calls a language, as OpenAI's answers do; the code where it is not known."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return str(LANGUAGES.get(code, code))


def _codes() -> Mapping[str, str]:
    """The code of each English name, in lower case."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    found: Mapping[str, str] = TO_LANGUAGE_CODE
    return found


def _ends(fields: Fields, vocab_size: int) -> frozenset[int]:
    """The ids that end a text."""
    if isinstance(fields.raw.get("eos_token_id"), list) and fields.counts("eos_token_id"):
        return frozenset(fields.counts("eos_token_id"))
    return frozenset([fields.token("eos_token_id", vocab_size=vocab_size)])


def _ids(fields: Fields, name: str, vocab_size: int) -> dict[str, int]:
    """An object of names and ids.

    Raises:
        ConfigError: there is none, or it has other values.
    """
    inner = fields.inside(name)
    if not inner.raw:
        raise ConfigError(f"{fields.source} has no {name}; newer revisions have it")
    return {str(key): inner.token(key, vocab_size=vocab_size) for key in inner.raw}


def _listed(fields: Fields, name: str, vocab_size: int) -> tuple[int, ...]:
    """A list of ids; ids beyond the vocabulary, which cannot come, are left out."""
    return tuple(index for index in fields.counts(name) if index < vocab_size)


def _forced(
    fields: Fields, languages: Mapping[str, int], tasks: Mapping[str, int], no_times: int
) -> tuple[str | None, str]:
    """The language and the task of requests that name none: by ``language`` and ``task``, or by
    ``forced_decoder_ids`` of older files.

    Raises:
        ConfigError: one is not known. UnsupportedModel: other ids are forced.
    """
    language, task = None, TASKS[0]
    if fields.has("language"):
        given = fields.text("language")
        language = next((c for c in languages if given.lower() in (c, f"<|{c}|>")), None)
        language = language or _codes().get(given.lower())
        if language not in languages:
            raise fields.wrong(f"one of {', '.join(sorted(languages))}", "language")
    if fields.has("task"):
        task = fields.only("task", *TASKS)
    pairs = fields.raw.get("forced_decoder_ids")
    if pairs in (None, []) or fields.has("language") or fields.has("task"):
        return language, task
    codes = {index: code for code, index in languages.items()}
    names = {index: name for name, index in tasks.items()}
    try:
        ids = [index for _, index in pairs if index not in (None, no_times)]
    except (TypeError, ValueError):
        raise fields.wrong("pairs of a place and an id", "forced_decoder_ids") from None
    for index in ids:
        if index in codes:
            language = codes[index]
        elif index in names:
            task = names[index]
        else:
            raise UnsupportedModel(
                f"{fields.source}: forced_decoder_ids {pairs!r:.80} is not supported: {index} is "
                "no language and no task"
            )
    return language, task
