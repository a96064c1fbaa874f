"""One answer to a chat as events: reasoning, text, calls with their ids, and the end.

White space between the text and calls, and behind the reasoning, is dropped. Complete answers are
read in the same way as streamed ones, so that both are the same.
"""

from __future__ import annotations

from atoll_client.gateway.chat_formats.events import Argued, Called, Ended, Event, Reasoned, Said
from atoll_client.gateway.chat_formats.reader import AnswerReader, Format
from atoll_client.types import Chunk


class Answer:
    """Call ``write`` with each chunk of an answer.

    Args:
        form: how the model writes its reasoning and the calls of tools.
        num_earlier_calls: those of the conversation, by which some formats number the ids of calls.

    Attributes:
        reasoning_end: where its reasoning, with its tags, ends in the text of the answer.
        places: where each token begins in that text, if the model tells the texts of tokens.
    """

    def __init__(self, form: Format, num_earlier_calls: int = 0) -> None:
        self._form, self._num_earlier_calls = form, num_earlier_calls
        self._reader: AnswerReader | None = None
        self._num_calls = self._num_fed = self._num_told = self.reasoning_end = 0
        self.places: list[int] = []
        self._has_said = False
        # White space that is part of the text, or of the reasoning, only if more follows.
        self._blank, self._blank_reason = "", ""

    def write(self, chunk: Chunk) -> list[Event | Ended]:
        """What one more chunk adds to the answer; ``Called`` has an id."""
        if self._reader is None:
            self._reader = AnswerReader(self._form, chunk.reasoning_state)
        self._num_fed += len(chunk.text)
        for token in chunk.tokens:
            self.places.append(self._num_told)
            self._num_told += len(token.text)
        found: list[Event | Ended] = []
        for event in self._reader.feed(chunk.text):
            self._add(event, found)
        if chunk.finish_reason:
            for event in self._reader.finish():
                self._add(event, found)
            has_called = self._num_calls > 0
            if self._blank and not has_called:
                found.append(Said(self._blank))
            is_call = has_called and chunk.finish_reason == "stop"
            found.append(Ended("tool_calls" if is_call else chunk.finish_reason))
        num_behind = self._reader.behind_reasoning()
        if num_behind is not None:
            self.reasoning_end = self._num_fed - num_behind
        return found

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens of the reasoning, with its tags; 0 if the model does not tell their texts."""
        return sum(place < self.reasoning_end for place in self.places)

    def _add(self, event: Event, found: list[Event | Ended]) -> None:
        if isinstance(event, Said):
            text = event.text if self._form.calls is None else self._said(event.text)
            if text:
                found.append(Said(text))
        elif isinstance(event, Reasoned):
            # Up to here, unless there is an end that says otherwise.
            self.reasoning_end = self._num_fed
            text = self._blank_reason + event.text
            kept = text.rstrip()
            self._blank_reason = text[len(kept) :]
            if kept:
                found.append(Reasoned(kept))
        elif isinstance(event, Called):
            number = self._num_earlier_calls + self._num_calls
            self._num_calls += 1
            found.append(Called(event.name, event.id or self._form.new_id(event.name, number)))
        elif isinstance(event, Argued):
            found.append(event)

    def _said(self, text: str) -> str:
        """The text without the white space between it and calls."""
        text = self._blank + text
        if not self._has_said and self._num_calls:
            text = text.lstrip()
        kept = text.rstrip()
        self._blank = text[len(kept) :]
        self._has_said = self._has_said or bool(kept)
        return kept
