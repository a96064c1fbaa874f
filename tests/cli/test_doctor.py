"""What ``atoll doctor`` finds on a machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.cli import checks
from atoll.cli.model_fit import fit
from atoll.launcher.libraries import missing_libraries, remedy

HUB_CONFIGS = Path(__file__).parents[1] / "data" / "hub_configs"


def test_doctor_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("importlib.metadata.version", lambda name: "2.1.0")
        monkeypatch.setattr("sys.version_info", (3, 13, 0))
        monkeypatch.setattr("shutil.which", lambda name: None)
        looks = (checks.python, checks.numpy, checks.ports, checks.compilers)
        machine = checks.Machine(None, (1, 2, 3, port, 5))
        found = {finding.name: finding for look in looks for finding in look(machine)}
    assert found[f"port {port}"].status == "warn" and "--port" in found[f"port {port}"].remedy
    assert found["numpy"].status == "fail" and "numpy<2" in found["numpy"].remedy
    assert found["Python"].status == "fail" and "3.11" in found["Python"].remedy
    assert found["C++ compiler"].status == "warn"
    assert all(f.remedy for f in found.values() if f.status != "ok")


# GB of each GPU -> the finding. Mixtral's heads and features are divided by 2, 4 and 8.
FITS = {
    (): ("fail", "do not fit in"),
    (80, 80): ("warn", "need 2 GPUs: each 46"),
    (80,): ("fail", "need 2 GPUs"),
    (40,) * 4: ("warn", "need 4 GPUs: each 23"),
    (24,) * 8: ("warn", "need 8 GPUs"),
    (4,) * 16: ("fail", "even 16 parts do not fit"),
    (141,): ("ok", "fit in a GPU of 141 GB"),
}


@pytest.mark.parametrize("gpus", FITS)
def test_doctor_says_how_many_gpus_a_model_needs(gpus: tuple[int, ...], tmp_path: Path) -> None:
    config = HUB_CONFIGS / "mistralai__Mixtral-8x7B-Instruct-v0.1.json"
    shutil.copy(config, tmp_path / "config.json")
    found = fit(str(tmp_path), [gb * 10**9 for gb in gpus])
    status, words = FITS[gpus]
    assert found.status == status and words in found.found, found
    assert bool(found.remedy) == (status != "ok")


def test_a_missing_library_is_found(tmp_path: Path) -> None:
    """A real one: a program whose library was deleted."""
    (tmp_path / "gone.c").write_text("int gone(void) { return 0; }")
    (tmp_path / "main.c").write_text("int gone(void); int main(void) { return gone(); }")
    library, program = tmp_path / "libatollgone.so", tmp_path / "program"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "gone.c"], check=True)
    subprocess.run(["cc", "-o", program, tmp_path / "main.c", library], check=True)
    assert missing_libraries(program, os.environ) == []
    library.unlink()
    (missing,) = missing_libraries(program, os.environ)
    assert missing.endswith("libatollgone.so")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"apt-get install libpython{version}" in remedy("libpython3.11.so.1.0")
