"""The parts of a request's time in a model; ``atoll profile`` shows them.

They are counters of seconds, not histograms, since many requests' increments cost one update.
Imports nothing of Triton, so that the command line can read the tables.
"""

from __future__ import annotations

from collections.abc import Mapping

_TOKENIZE = "from its arrival until its tokens wait for the engine"
_SEND = "from the result until the answer is handed to the server"

# The parts, in the order in which a request passes through them.
ENCODER: Mapping[str, str] = {
    "tokenize": _TOKENIZE,
    "wait": "until the first pack with a text of it begins",
    "compute": "in forwards, until its last text is done",
    "send": _SEND,
}
GENERATE: Mapping[str, str] = {
    "tokenize": _TOKENIZE,
    "wait": "until its first step",
    "first_token": "in steps until the first token",
    "decode": "in steps for all further tokens",
    "send": _SEND,
}


def counter(part: str) -> str:
    """The metric that adds up a part's seconds."""
    return f"atoll_{part}_seconds_total"
