"""Ten minutes of chaos: processes are killed and stopped at random under load.

``python benchmarks/reliability/chaos.py --minutes 10 --seed 1 --out docs/benchmarks`` starts
``atoll serve``, asks it as ``load.py`` does, runs long batches, and inflicts one fault after the
other (``chaos_faults.py``; the seed gives their order). After each it waits until every model
answers in every dialect again. Then the batches are compared, and the launcher itself is ended and
killed. Writes ``chaos.json``, ``chaos.md`` and ``chaos.svg``; the exit status says whether each
request was answered or refused in time and everything came back.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random

sys.path.append(str(Path(__file__).resolve().parents[1]))

from chaos_batches import Batches
from chaos_end import end_kindly, end_launcher
from chaos_faults import Fault, faults, inflict
from chaos_probes import Probes
from chaos_report import Chaos, Happened, merge, write
from chaos_served import World, go_apart, zombies
from load import Load
from serving import Serving
from tally import Ended

_BACK_S, _PAUSE_S = 120.0, 3.0


def chaos(minutes: float, seed: int, direct: bool, clients: int, lines: int) -> Chaos:
    """All phases; nothing runs afterwards."""
    random, ended = Random(seed), list[Ended]()
    with tempfile.TemporaryDirectory() as name, World(Path(name), direct) as world:
        server = world.start()
        found = Chaos(minutes, seed, direct, clients, os.getloadavg())
        load = Load(world.target, clients=clients, seed=seed, pause_s=1.0, batch_share=0.0,
                    on_end=ended.append)  # fmt: skip
        # The load ends first; the batches then have some time.
        with (
            Batches(world.target.http, lines) as batches,
            load,
            Probes(world.target) as probes,
        ):
            found.calm = probes.know_calm()
            until = time.monotonic() + 60 * minutes
            for fault in faults(random):
                if time.monotonic() >= until or server.process.poll() is not None:
                    break
                found.happened.append(_one(fault, world, server, probes))
                time.sleep(random.uniform(0, _PAUSE_S))
        found.load_averages = (found.load_averages[0], *os.getloadavg()[1:])
        found.batches, found.ended = batches.counts, ended
        found.num_begun = load.tally.num_begun
        found.endings = [f"zombie: {one}" for one in zombies(server)]
        found.log = server.log.read_text()
        found.endings += end_kindly(world, server)
        found.endings += end_launcher(world)
    return found


def _one(fault: Fault, world: World, server: Serving, probes: Probes) -> Happened:
    began, seen = time.monotonic(), len(server.log.read_text())
    says = _FirstLine(server.log, seen, began)
    not_done = inflict(fault, world, server)
    over = time.monotonic()
    while not not_done and time.monotonic() < over + _BACK_S and not probes.is_calm(over):
        if server.process.poll() is not None:
            break
        time.sleep(0.2)
    said_s, said = says.stop()
    happened = Happened(
        fault, began, time.monotonic(), not_done, said_s, said, probes.recovery_s(began),
        probes.refusals(began),
    )  # fmt: skip
    print(f"{fault}: {not_done or f'{happened.recovered_s:.1f} s'}; {said[:150]}", flush=True)
    return happened


class _FirstLine:
    """Waits for the next line that a server prints."""

    def __init__(self, log: Path, start: int, began: float) -> None:
        self._log, self._start, self._began = log, start, began
        self._found: tuple[float, str] = (0.0, "")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[float, str]:
        """Seconds until it came, and the line; 0 and "": none came."""
        self._stopping.set()
        self._thread.join()
        return self._found

    def _run(self) -> None:
        while not self._stopping.wait(0.05):
            if lines := self._log.read_text(errors="replace")[self._start :].strip().splitlines():
                self._found = (time.monotonic() - self._began, lines[0])
                return


def main() -> None:
    """Raises SystemExit: something was lost, wrong or has not come back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--lines", type=int, default=2000, help="of a batch of embeddings")
    parser.add_argument("--direct", action="store_true", help="clients ask Triton's ports, too")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--merge", action="store_true", help="with the runs that are in --out")
    given = parser.parse_args()
    go_apart()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    found = chaos(given.minutes, given.seed, given.direct, given.clients, given.lines)
    log = Path(tempfile.gettempdir()) / f"chaos-{given.seed}.log"
    log.write_text(found.log)
    print(f"what the server has printed: {log}")
    runs = merge(found, given.out if given.merge else None)
    print(write(runs, given.out))
    if wrong := runs[-1]["problems"]:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
