"""The order of waiting requests: lower priorities go first.

Triton takes a parameter ``priority`` for its own queues and does not pass it on, hence the name.
"""

from __future__ import annotations

from typing import Any

from atoll.serving.triton.tensors import as_int

# The parameter of a request, and the gateway's header. Generators also have an option `priority`.
PRIORITY = "x-priority"
# Of either sign. It includes Cohere's priorities, 0 to 999.
MAX_PRIORITY = 999
# Whether a model answers is found out before anything else.
CANARY_PRIORITY = -MAX_PRIORITY - 1


def read_priority(parameters: dict[str, Any], *, is_canary: bool = False) -> int:
    """A request's priority; 0 by default. Removes it from the parameters.

    Raises:
        ValidationError: it is not an integer from -999 to 999.
    """
    found = as_int(PRIORITY, parameters.pop(PRIORITY, 0), -MAX_PRIORITY, MAX_PRIORITY)
    return CANARY_PRIORITY if is_canary else found
