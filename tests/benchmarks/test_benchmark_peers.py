"""Peers of the benchmarks in processes of their own, and the page that their races make."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# A module that the child can import, as a benchmark's peers are.
_PEERS = """
import os
import time


def build(name, first):
    if name == "broken":
        raise ValueError("no such checkpoint")

    def peer(second):
        if second == 0:
            raise ArithmeticError("nothing to add")
        if second < 0:
            os._exit(3)
        time.sleep(second / 1000)
        if "waits" in name:
            return os.environ.get("GOMP_SPINCOUNT")
        return os.getpid(), first + second

    return peer
"""
_PARENT = """
import os
from harness.apart import Apart
from some_peers import build

if __name__ == "__main__":
    with Apart("peer", build, "peer", 40) as peer:
        print(peer(2)[1], flush=True)
        os.kill(os.getpid(), 9)
"""


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "some_peers.py").write_text(_PEERS)
    monkeypatch.syspath_prepend(BENCHMARKS / "peers")
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("some_peers", None)
    return importlib.import_module("harness.apart")


def build() -> Any:
    return importlib.import_module("some_peers").build


def test_answers_from_one_other_process(apart: ModuleType) -> None:
    with apart.Apart("peer", build(), "peer", 40) as peer:
        (child, answer), (same, _) = peer(2), peer(3)
    assert answer == 42
    assert child == same != os.getpid()


def test_time_is_of_all_calls_and_the_answer_of_the_last(apart: ModuleType) -> None:
    with apart.Apart("peer", build(), "peer", 0) as peer:
        (_, answer), seconds = apart.timed(5, peer, 20)
        work = apart.contestant(7, peer, 30, calls=2)()
    assert answer == 20 and 0.1 <= seconds < 5
    assert work.units == 7 and work.seconds >= 0.06


def test_errors_carry_their_text_and_the_peer_goes_on(apart: ModuleType) -> None:
    with apart.Apart("adder", build(), "peer", 40) as peer:
        with pytest.raises(RuntimeError, match=r"(?s)adder.*ArithmeticError: nothing to add"):
            peer(0)
        assert peer(2)[1] == 42
    with (
        pytest.raises(RuntimeError, match=r"(?s)adder.*ValueError: no such checkpoint"),
        apart.Apart("adder", build(), "broken", 40),
    ):
        pass


def test_a_peer_that_dies_is_named(apart: ModuleType) -> None:
    with apart.Apart("adder", build(), "peer", 40) as peer:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="adder: its process ended with status 3"):
                peer(-1)


def test_a_peer_that_is_not_installed_is_left_out(
    apart: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    packages = {"here": "pytest", "missing": "no_such_package"}
    with apart.started(packages, build(), 40) as peers:
        assert list(peers) == ["here"] and peers["here"](2)[1] == 42
    assert "missing: no_such_package is not installed" in capsys.readouterr().out


def test_only_our_engine_waits_as_atoll_sets_it(
    apart: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that got libgomp's default lost its cores to torch's workers, a third at times."""
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    for name, expected in (("Atoll waits", "1000"), ("peer waits", None)):
        with apart.Apart(name, build(), name, 40) as peer:
            assert peer(2) == expected
    assert os.environ["GOMP_SPINCOUNT"] == "1000"


def test_ends_with_its_parent(apart: ModuleType, tmp_path: Path) -> None:
    """The child holds the standard output it inherits: it is seen to end when that does."""
    (tmp_path / "parent.py").write_text(_PARENT)
    path = os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "parent.py")],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "42\n" and done.returncode == -9


def test_a_race_takes_the_time_a_contestant_reports(apart: ModuleType) -> None:
    measure = importlib.import_module("harness.measure")
    entrants = {"apart": lambda: measure.Work(30, 2.0), "here": lambda: 30}
    apart_, here = measure.race(entrants, "units/s", rounds=2)
    assert apart_.rates == [15.0, 15.0]
    assert min(here.rates) > 15


def test_a_page_keeps_the_races_of_another_run_of_the_same_page(
    apart: ModuleType, tmp_path: Path
) -> None:
    generate, measure = (
        importlib.import_module("generate"),
        importlib.import_module("harness.measure"),
    )
    cells = {"as fp32": "50%"}
    first = [measure.Result(generate.BASELINE, "tokens/s", [1.0, 3.0], cells)]
    races = {"one": first}
    measure.write(tmp_path, "generate", generate.page("head", races), races)
    races = generate.earlier(tmp_path, "head")
    assert races == {"one": first}
    races["two"] = first
    page = measure.write(tmp_path, "generate", generate.page("head", races), races)
    assert page == (tmp_path / "generate.md").read_text()
    assert page.startswith("head\n\n**one**\n\n|") and "**two**" in page
    assert f"| {generate.BASELINE} | 2.0 | 1.00 | 100% | 50% |" in page
    assert "beside the others: Atoll int4, engine, Atoll int8, engine, ctranslate2 int8" in page
    assert generate.earlier(tmp_path, "of another day") == {}
    assert generate.earlier(tmp_path / "nowhere", "head") == {}


def test_agreement_is_the_share_before_the_first_difference(apart: ModuleType) -> None:
    generate = importlib.import_module("generate")
    expected = [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert generate.agreement([[1, 2, 3, 4], [5, 0, 7, 8]], expected) == (1 + 0.25) / 2
    with pytest.raises(ValueError):
        generate.agreement([[1, 2, 3], [5, 6, 7, 8]], expected)


def test_contestants_stay_out_where_memory_does_not_hold_them(apart: ModuleType) -> None:
    """A Llama 1.1B raced beside contestants whose mapped weights the kernel threw away."""
    generate = importlib.import_module("generate")
    ours = [f"Atoll {dtype}, served" for dtype in generate.DTYPES]
    names, model = [*generate.PEERS, generate.VLLM, *ours], generate.MODELS["1.1b"]
    assert generate.fitting(names, model, 64) == names
    left = generate.fitting(names, model, 22)
    out = set(names) - set(left)
    in_float32 = {n for n in names if "fp32" in n}
    assert in_float32 < out <= in_float32 | set(generate.MAY_STAY_OUT)
    assert {generate.BASELINE, generate.VLLM, "llama.cpp Q4_0", "Atoll bf16, served"} <= set(left)
    assert sum(generate._gb(name, model) for name in left) <= 22


def test_decoding_is_measured_while_all_answers_grow(apart: ModuleType) -> None:
    decoding = importlib.import_module("harness.decoding")
    first, second = [0.0, 1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 4.5, 5.5]
    work = decoding.shared_time([first, second])
    assert (work.units, work.seconds) == (5, 2.5)  # from 1.5 to 4.0
    with pytest.raises(AssertionError, match="too few tokens"):
        decoding.shared_time([[0.0, 1.0], [2.0, 3.0]])
