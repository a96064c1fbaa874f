"""The input of a custom tool, from the JSON arguments of the function that stands for it."""

from __future__ import annotations

import json
import re

from atoll_client.gateway.responses.tools import INPUT

_BEGIN = re.compile(rf'\s*{{\s*"{INPUT}"\s*:\s*"')
# Characters and whole escapes; a pair of surrogates is one.
_WHOLE = re.compile(
    r'(?:[^"\\]|\\["\\/bfnrt]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
    r"|\\u(?![dD][89abAB])[0-9a-fA-F]{4})*"
)


class CustomInput:
    """Call ``feed`` with each piece of the arguments, and ``finish`` at the end.

    Arguments of another form, which a model may write if no grammar binds it, are the input as
    they are.
    """

    def __init__(self) -> None:
        self._raw = ""
        # Where the text goes on; None: its beginning was not seen yet.
        self._at: int | None = None

    def feed(self, text: str) -> str:
        """What the piece adds to the input."""
        self._raw += text
        if self._at is None:
            found = _BEGIN.match(self._raw)
            if found is None:
                return ""
            self._at = found.end()
        match = _WHOLE.match(self._raw, self._at)
        assert match is not None, "the pattern matches the empty string"
        self._at = match.end()
        return str(json.loads(f'"{match[0]}"', strict=False))

    def finish(self) -> str:
        """What is left: the arguments as they are, if they have another form."""
        return self._raw if self._at is None else ""
