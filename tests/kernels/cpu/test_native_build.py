"""How native kernels are built: once, for the machine, and cleanly."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import native_driver
import pytest
from native import BEST, LEVELS, native

from atoll_kernels.cpu.native import build as building

SANITIZERS = "address,undefined"
# Builds the sources of a folder.
_BUILD = """
import pathlib, sys
from atoll_kernels.cpu.native import build, library
print(library().level.name)
build.SOURCES = pathlib.Path(sys.argv[1])
build._folder = lambda: build.SOURCES.parent
print(build.build(build.LEVELS[-1]))
"""


def test_it_is_built_once_by_processes_that_start_together(tmp_path: Path) -> None:
    native(LEVELS[0])
    sources = tmp_path / "src"
    sources.mkdir()
    (sources / "tiny.cpp").write_text('#include <vector>\nextern "C" int answer() { return 42; }\n')
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", _BUILD, str(sources)],
            env={**os.environ, "ATOLL_CPU_ISA": LEVELS[0].name}, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[0].splitlines() for process in racing]
    (built,) = tmp_path.glob("*.so")
    assert said == [[LEVELS[0].name, str(built)]] * 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".so", ".lock", ""}


def test_an_old_compiler_leaves_narrower_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = importlib.import_module("atoll_kernels.cpu.native.library")
    first, last = building.LEVELS[0], building.LEVELS[-1]

    def build(level: building.Level) -> Path:
        if level is first:
            raise building.BuildError("unrecognized option")
        return building.build(level)

    monkeypatch.delenv("ATOLL_CPU_ISA", raising=False)
    monkeypatch.setattr(loading, "usable_levels", lambda _: (first, last))
    monkeypatch.setattr(loading, "build", build)
    found = loading._load.__wrapped__()
    assert found.level is last
    monkeypatch.setattr(loading, "usable_levels", lambda _: (first,))
    assert loading._load.__wrapped__() == "unrecognized option"


def test_reasons_why_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """``status`` tells them, and ops go on in torch."""
    # The package's attribute of that name is the function.
    loading = importlib.import_module("atoll_kernels.cpu.native.library")
    for name in ("_load", "library"):
        monkeypatch.setattr(loading, name, getattr(loading, name).__wrapped__)
    monkeypatch.setenv("ATOLL_CPU_ISA", "sse9")
    works, text = loading.status()
    assert not works and "ATOLL_CPU_ISA is 'sse9'; it can be amx, avx512_bf16, avx512" in text
    assert loading.library() is None
    monkeypatch.delenv("ATOLL_CPU_ISA")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert loading.status() == (False, "there is no C++ compiler (g++)")


def test_a_level_that_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "cpu_flags", lambda: frozenset({"avx2", "fma", "f16c"}))
    assert building.usable_levels()[0].name == "avx2"
    with pytest.raises(building.BuildError, match="lacks avx512bw"):
        building.usable_levels("avx512")
    monkeypatch.setattr(building, "cpu_flags", frozenset)
    assert [level.name for level in building.usable_levels("")] == ["portable"]


def test_a_failing_compiler_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sources = tmp_path / "src"
    sources.mkdir()
    (sources / "bad.cpp").write_text("int x = nonsense;\n")
    monkeypatch.setattr(building, "SOURCES", sources)
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    with pytest.raises(building.BuildError, match="nonsense"):
        building.build(building.LEVELS[-1])
    assert not list((tmp_path / "kernels").glob("*.so"))


def test_what_was_compiled_ahead_needs_no_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in an image: every instruction set, whatever CPU it is built on, in a closed folder."""
    sources, folder = tmp_path / "src", tmp_path / "ahead"
    sources.mkdir()
    (sources / "tiny.cpp").write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr(building, "SOURCES", sources)
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ATOLL_KERNELS", raising=False)
    with pytest.raises(building.BuildError, match="ATOLL_KERNELS is not set"):
        building.build_all()
    monkeypatch.setenv("ATOLL_KERNELS", str(folder))
    monkeypatch.setattr(building, "cpu_flags", frozenset)
    made = building.build_all()
    levels = building.LEVELS if platform.machine() == "x86_64" else building.LEVELS[-1:]
    assert [path.name.split("-")[0] for path in made] == [level.name for level in levels]
    monkeypatch.setattr("shutil.which", lambda name: None)
    for level, path in zip(levels, made, strict=True):
        assert building.build(level) == path and path.stat().st_size > 0
    assert building.build_all() == made and not (tmp_path / "cache").exists()
    # Sources have changed, as after an update: what is there is not for them.
    (sources / "tiny.cpp").write_text('extern "C" int answer() { return 43; }\n')
    with pytest.raises(building.BuildError, match="no C"):
        building.build(levels[-1])


def runtime(name: str) -> str:
    """A sanitizer's runtime, by its path."""
    done = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True)
    return done.stdout.strip()


def test_sanitizers_find_nothing() -> None:
    """Address and undefined behaviour, at the machine's best level, over exact buffers."""
    libraries = [runtime("libasan.so"), runtime("libubsan.so")]
    if not all(Path(path).is_absolute() for path in libraries):
        pytest.skip(f"g++ has no sanitizer runtimes: {libraries}")
    # torch's allocations are not freed at exit; its own overlapping symbols are not ours to mend.
    environment = {
        **os.environ, "LD_PRELOAD": " ".join(libraries), "OMP_NUM_THREADS": "2",
        "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }  # fmt: skip
    # Here, since a compiler that has the runtimes loaded takes a minute.
    building.build(BEST, SANITIZERS)
    driver = [sys.executable, native_driver.__file__, BEST.name, SANITIZERS]
    done = subprocess.run(driver, env=environment, capture_output=True, text=True, timeout=240)
    assert done.stdout == "clean\n" and done.returncode == 0, done.stderr[-4000:]
