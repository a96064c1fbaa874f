"""Every benchmark that is run by hand finds what it imports, from wherever it is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# Each as Python runs it, its folder first on sys.path, but for what it does when it is run.
_RUN = """
import runpy, sys
from pathlib import Path

before = list(sys.path)
for script in sys.argv[1:]:
    sys.path[:] = [str(Path(script).parent), *before]
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        if any("/benchmarks/" in str(place) for place in places):
            del sys.modules[name]  # what another script found
    try:
        runpy.run_path(script, run_name="imported")
    except Exception as error:
        print(f"{script}: {type(error).__name__}: {error}")
"""


def test_scripts_find_their_modules(tmp_path: Path) -> None:
    scripts = [
        str(f) for f in BENCHMARKS.rglob("*.py") if 'if __name__ == "__main__"' in f.read_text()
    ]
    assert len(scripts) > 10
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *scripts], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr
