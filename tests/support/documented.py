"""Examples of the documentation's pages, run against a server of a test."""

from __future__ import annotations

import re
from pathlib import Path

_DOCS = Path(__file__).parents[2] / "docs"


def run_example(page: str, heading: str, grpc_url: str) -> None:
    """Runs the one Python example between a heading and the next of any kind."""
    text = (_DOCS / page).read_text(encoding="utf-8")
    section = re.split(r"^#+ ", text.split(f"# {heading}\n")[1], flags=re.MULTILINE)[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert "localhost:8001" in code
    exec(code.replace("localhost:8001", grpc_url), {})
