"""What a server's /metrics page says of a model; numbers are noted a moment after their cause."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable

from atoll.launcher import ServerProcess

TIMEOUT_S = 60.0
# Notes are carried over every 20 ms, and gauges looked at every 50 while requests are open: a page
# that is the same at every one of so many looks has them all. Several, since a machine that stops
# for a while makes one pause as long as it likes, and the notes come after it.
_LOOK_S, _NUM_LOOKS = 0.05, 6

Page = dict[str, float]


def metrics(server: ServerProcess, model: str) -> Page:
    """The model's gauges, counters, and sums and counts of histograms, by name."""
    with urllib.request.urlopen(server.metrics_url, timeout=60) as response:
        page = response.read().decode()
    rows = re.findall(rf'^(\w+)\{{model="{model}"\}} (\S+)$', page, re.MULTILINE)
    return {name: float(value) for name, value in rows}


def wait_for(
    server: ServerProcess, model: str, name: str, is_reached: Callable[[float], bool]
) -> None:
    """Returns once a metric, 0 where it is not there yet, is what it should become."""
    deadline = time.monotonic() + TIMEOUT_S
    while not is_reached(value := metrics(server, model).get(name, 0.0)):
        assert time.monotonic() < deadline, f"{name} is {value} after {TIMEOUT_S} s"
        time.sleep(0.05)


def settled(server: ServerProcess, model: str) -> Page:
    """The page once nothing changes any more: what has happened is in it."""
    deadline = time.monotonic() + TIMEOUT_S
    page, num_same = metrics(server, model), 0
    while num_same < _NUM_LOOKS:
        assert time.monotonic() < deadline, f"the page still changes after {TIMEOUT_S} s"
        time.sleep(_LOOK_S)
        before, page = page, metrics(server, model)
        num_same = num_same + 1 if page == before else 0
    return page
