"""The prompt of a generation request: plain text, chat messages, or token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from atoll.engine.limits import EngineLimits
from atoll.errors import EmptyInputError, ValidationError
from atoll.serving.requests.option_names import CHAT_NAMES, json_list
from atoll.serving.requests.sampling_options import GenerateOptions
from atoll.serving.requests.validation import check_ids
from atoll.serving.triton import tensors
from atoll.text.answer import AnswerText
from atoll.text.chat import ChatTemplate
from atoll.text.chat_options import ChatOptions
from atoll.text.detokenizer import Detokenizer
from atoll.text.languages import Languages
from atoll.text.model_quirks import fill_in_the_middle
from atoll.text.stop_strings import StopStrings
from atoll.text.text_encoder import CHARACTER_LIMIT, LEAST_LOOKED_THROUGH
from atoll.text.tokenizer import Tokenizer

# A prompt that is cut to its last tokens is tokenized completely, so that its length is limited.
_MAX_CUT_CHARACTERS = 2_000_000


@dataclass(frozen=True)
class Prompt:
    """The prompt before it is tokenized: text, messages, or ids.

    num_characters: of the text or, with their JSON, of messages and tools.
    """

    text: str | None = None
    messages: Any = None
    tools: Any = None
    input_ids: tuple[int, ...] | None = None
    num_characters: int = 0

    @classmethod
    def read(cls, request: Any) -> Prompt:
        """Raises ValidationError: no input, or more than one."""
        text, messages, tools = (
            tensors.string(request, name) for name in ("text_input", "messages", "tools")
        )
        ids = tensors.integers(request, "input_ids")
        given = {"text_input": text, "messages": messages, "input_ids": ids}
        named = [name for name, value in given.items() if value not in (None, "", [])]
        if len(named) > 1:
            raise ValidationError(f"{' and '.join(named)} are set; expected one of them")
        if not named:
            empty = [name for name, value in given.items() if value is not None] or ["text_input"]
            raise EmptyInputError(f"{empty[0]} is empty")
        if messages:
            return cls(
                messages=json_list("messages", messages),
                tools=json_list("tools", tools) if tools else None,
                num_characters=len(messages) + len(tools or ""),
            )
        if tools:
            raise ValidationError(f"tools is set, which goes with messages, not with {named[0]}")
        if text:
            return cls(text=text, num_characters=len(text))
        return cls(input_ids=tuple(ids or ()))

    @property
    def name(self) -> str:
        """The name of the input, for error messages."""
        if self.messages is not None:
            return "messages"
        return "text_input" if self.text is not None else "input_ids"


class Encoded(NamedTuple):
    """Token ids of a prompt, and ``ReasoningMarks.state``; None: the option is not set."""

    ids: list[int]
    reasoning_state: str | None = None


class PromptEncoder:
    """Tokenizes the prompts of a model. template: None: it has no chats."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate | None, limits: EngineLimits
    ) -> None:
        self._tokenizer, self._template, self._limits = tokenizer, template, limits

    def encode(self, prompt: Prompt, options: GenerateOptions) -> Encoded:
        """Token ids, cut to ``truncate`` from the left.

        Raises:
            ValidationError: no template for messages, an id outside the vocabulary, too long.
        """
        text, add_special_tokens = self._text(prompt, options)
        source = self._source(prompt, options, add_special_tokens)
        if text is None:
            ids = list(prompt.input_ids or ())
        else:
            self._check_length(prompt.name, text, options)
            ids = self._tokenizer.encode(text, add_special_tokens and source is None)
        check_ids(prompt.name, ids, self._limits.input_vocab_size or self._limits.vocab_size)
        if source is not None:
            languages = self._languages("src_lang")
            if languages.source is None and ids[:1] and ids[0] in languages.ids.values():
                raise ValidationError(
                    f"tgt_lang is {options.tgt_lang!r}, and {prompt.name} begins with a language, "
                    "too; expected one of them"
                )
            ids = _framed(ids, source, languages, options.truncate)
        elif options.truncate is not None:
            ids = ids[-options.truncate :]
        most = self._limits.max_input_tokens
        if not ids:
            raise EmptyInputError(f"{prompt.name} has no tokens")
        if len(ids) > most:
            raise ValidationError(
                f"{prompt.name} has {len(ids)} tokens; max_input_tokens is {most}"
            )
        return Encoded(ids, _reasoning_state(prompt, options, text or ""))

    def prediction(self, options: GenerateOptions) -> tuple[int, ...]:
        """Token ids of what the answer is expected to be; empty where that is not known.

        Raises:
            ValidationError: one is outside the vocabulary.
        """
        ids = self._tokenizer.encode(options.prediction, False) if options.prediction else []
        check_ids("prediction", ids, self._limits.vocab_size)
        return tuple(ids)

    def answer_start(self, options: GenerateOptions) -> tuple[int, ...]:
        """What the decoder of an encoder-decoder is given of the answer; empty for a decoder.

        Raises:
            ValidationError: the model has no such language, none at all, or no first token.
        """
        start, first = self._limits.decoder_start_token_id, options.forced_bos_token_id
        if first is not None and options.tgt_lang is not None:
            raise ValidationError(
                f"tgt_lang is {options.tgt_lang!r} and forced_bos_token_id {first}; expected one "
                "of them"
            )
        target = None
        if options.tgt_lang is not None:
            target = self._languages("tgt_lang").id_of("tgt_lang", options.tgt_lang)
        if start is None:
            if first is not None or target is not None:
                name = "tgt_lang" if first is None else "forced_bos_token_id"
                raise ValidationError(f"{name} is set, but this model is no encoder-decoder")
            return ()
        if target is not None and self._languages("tgt_lang").source is None:
            target = None  # the text begins with it
        elif target is not None and self._languages("tgt_lang").starts:
            start, target = target, None
        given = target if first is None else first
        given = self._limits.forced_bos_token_id if given is None else given
        return (start,) if given is None else (start, given)

    def _source(self, prompt: Prompt, options: GenerateOptions, is_framed: bool) -> int | None:
        """The token of a language in the text; None: it is framed, or not, as any text is."""
        languages, name, code = self._tokenizer.languages, "src_lang", options.src_lang
        if languages is not None and languages.source is None:
            if code is not None:
                raise ValidationError(
                    f"src_lang is {code!r}; to this model a text's language is not told, only that "
                    "of the translation: tgt_lang"
                )
            name, code = "tgt_lang", options.tgt_lang
        if code is None:
            default = None if languages is None or not is_framed else languages.source
            return languages.ids[default] if languages and default else None
        found = self._languages(name).id_of(name, code)
        if prompt.input_ids is not None:
            raise ValidationError(f"{name} is {code!r}, which goes with text, not with input_ids")
        if not is_framed:
            raise ValidationError(
                f"{name} is {code!r} and add_special_tokens is false: the language's token is "
                "one of them"
            )
        return found

    def _languages(self, name: str) -> Languages:
        """Raises ValidationError: the model's tokenizer has no languages."""
        if self._tokenizer.languages is None:
            raise ValidationError(f"{name} is set, but this model's tokenizer has no languages")
        return self._tokenizer.languages

    def texts(self, prompt: Prompt, options: GenerateOptions, ids: list[int]) -> list[str]:
        """The part of each of ``encode``'s tokens in the text; empty for those that were added."""
        tokenizer = self._tokenizer
        text, add_special_tokens = self._text(prompt, options)
        found = None if text is None else tokenizer.shares(text, add_special_tokens)
        if found is not None and found[0][-len(ids) :] == ids:
            return found[1][-len(ids) :]
        detokenizer = Detokenizer(tokenizer, skip_special_tokens=False)
        answer = AnswerText(detokenizer, StopStrings(()), tokenizer.cleans_up)
        return [share for token_id in ids for share in answer.push(token_id)] + answer.finish()

    def _check_length(self, name: str, text: str, options: GenerateOptions) -> None:
        """Raises ValidationError: the text is too long to be tokenized."""
        limit = self._limits.max_input_tokens
        most = max(LEAST_LOOKED_THROUGH, CHARACTER_LIMIT * limit)
        if options.truncate is not None:
            most = max(_MAX_CUT_CHARACTERS, most)
        if len(text) > most:
            raise ValidationError(
                f"{name} has {len(text)} characters; max_input_tokens is {limit}, of at most "
                f"{most} characters"
            )

    def _text(self, prompt: Prompt, options: GenerateOptions) -> tuple[str | None, bool]:
        """The text to tokenize (None: the prompt is ids), and whether to add special tokens."""
        if prompt.messages is not None:
            if self._template is None:
                raise ValidationError(
                    "messages is set, but this model has no chat template: its folder has no "
                    "chat_template.jinja, and no chat_template in tokenizer_config.json"
                )
            if options.suffix is not None:
                raise ValidationError(
                    "suffix is set, which goes with text_input, not with messages"
                )
            chat = options.chat or ChatOptions()
            rendered = self._template.render(prompt.messages, prompt.tools, chat)
            return rendered, bool(options.add_special_tokens)
        if options.chat is not None:
            raise ValidationError(
                f"{', '.join(CHAT_NAMES)}: one of them is set, which go with messages, not with "
                f"{prompt.name}"
            )
        if prompt.text is not None:
            text = _with_suffix(prompt.text, options.suffix, self._tokenizer)
            return text, options.add_special_tokens is not False
        if options.suffix is not None or options.add_special_tokens:
            name = "add_special_tokens" if options.suffix is None else "suffix"
            raise ValidationError(f"{name} goes with text_input, not with input_ids")
        return None, False


def _reasoning_state(prompt: Prompt, options: GenerateOptions, text: str) -> str | None:
    if options.reasoning is None:
        return None
    continues = options.chat is not None and options.chat.continue_final_message
    return options.reasoning.state(text, prompt.messages[-1] if continues else None)


def _framed(ids: list[int], source: int, languages: Languages, truncate: int | None) -> list[int]:
    """A text's ids with its language and its end, of which ``truncate`` leaves both."""
    num_around = len(languages.framed([], source))
    if truncate is None:
        return languages.framed(ids, source)
    if truncate <= num_around:
        raise ValidationError(
            f"truncate is {truncate}; the text's language and its end take {num_around} tokens"
        )
    return languages.framed(ids[-(truncate - num_around) :], source)


def _with_suffix(text: str, suffix: str | None, tokenizer: Tokenizer) -> str:
    if suffix is None:
        return text
    prompt = fill_in_the_middle(tokenizer.core, text, suffix)
    if prompt is None:
        raise ValidationError("suffix is set, but this model has no fill-in-the-middle tokens")
    return prompt
