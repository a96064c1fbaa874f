"""Half an hour of mixed clients: nothing may grow, nothing may be left.

``python benchmarks/reliability/soak.py --minutes 30 --out docs/benchmarks`` starts ``atoll serve``
with the two embedded models and tiny ones, asks all of them as ``load.py`` does while models and an
adapter come and go (``changes.py``), and samples every process (``samples.py``). After the warm-up
and at the end it waits until nothing is asked, and compares. Writes ``soak.json``, ``soak.md`` and
``soak.svg``; the exit status says whether everything was as it should be.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from changes import Changes
from load import Load
from samples import Sample, Sampler, busy, counters, shm_files
from served import Served, served
from soak_checks import Soak, problems
from soak_report import write
from tally import Tally

_IDLE_S = 60.0
# Connections that clients have closed, and threads that wait for work, end within this time.
_SETTLING_S = 25.0


def soak(minutes: float, warm_up: float, clients: int, seed: int, pause_s: float) -> Soak:
    """All phases; the server has ended afterwards."""
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as running:
        changes = Changes(running, pause_s, Tally())
        changes.load_sleeper()
        tallies, counted = [], counters(running)
        with Sampler(running) as sampler:
            spans = []
            before = None
            for length, number in ((warm_up, seed), (minutes - warm_up, seed + 1)):
                changes = Changes(running, pause_s, Tally())
                began = sampler.now()
                with Load(running.target, clients=clients, seed=number) as load, changes:
                    time.sleep(60 * length)
                spans.append((began, sampler.now()))
                tallies += [load.tally, changes.tally]
                after = _idle(running, sampler)
                before = before or after
            samples = sampler.samples
        assert before is not None
        soak = Soak(
            minutes=minutes, clients=clients, seed=seed, samples=samples, spans=spans,
            before=before, after=after, begun=sum(t.num_begun for t in tallies),
            ends=sum((t.by_end for t in tallies), Counter()),
            longest={k: max(t.seconds.get(k, 0) for t in tallies)
                     for t in tallies for k in t.seconds},
            defects=[d for t in tallies for d in t.defects],
            http=sum((t.http for t in tallies), Counter()),
            counted_before=counted, counters=counters(running), changes=changes.when,
        )  # fmt: skip
        running.server.stop(signal.SIGTERM)
        soak.left_in_shm = [file.name for file in shm_files(running.identity)]
        soak.log = running.server.log.read_text()
    return soak


def _idle(running: Served, sampler: Sampler) -> Sample:
    """Waits until the models have nothing to do and what was opened is closed."""
    deadline = time.monotonic() + _IDLE_S
    while any(busy(running).values()) and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(_SETTLING_S)
    return sampler.take()


def main() -> None:
    """Raises SystemExit: something has grown, or is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of load, warm-up included")
    parser.add_argument("--warm-up", type=float, default=5.0, help="minutes")
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=10.0, help="seconds from change to change")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    given = parser.parse_args()
    found = soak(given.minutes, given.warm_up, given.clients, given.seed, given.pause)
    print(write(found, given.out))
    if wrong := problems(found):
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
