"""The documentation as a site, and the tables for those who come from other servers."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer

from atoll.cli.app import app
from atoll.config import Settings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {field.name for field in fields(Settings)}


def test_the_site_is_whole_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    """``--strict`` fails on dead links and anchors, and on pages that the navigation lacks."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    environment = {**os.environ, "SITE_REPOSITORY": "https://example.org/main/"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    pages = {page.relative_to(tmp_path).as_posix() for page in tmp_path.rglob("*.html")}
    written = {p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md")}
    assert {path.with_suffix(".html").as_posix() for path in written} <= pages
    for page in pages:
        text = (tmp_path / page).read_text()
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', text), page
        assert 'href="../' not in text or "/" in page, page
    text = (tmp_path / "add_a_model.html").read_text()
    assert 'href="https://example.org/main/CONTRIBUTING.md#add-an-architecture"' in text


def _column(page: str, number: int) -> list[str]:
    rows = [line for line in (ROOT / "docs" / page).read_text().splitlines() if line[:1] == "|"]
    return [row.split("|")[number] for row in rows]


def test_flags_that_the_tables_name_exist() -> None:
    commands: Any = typer.main.get_command(app)
    known = {name for flag in commands.commands["serve"].params for name in flag.opts}
    for page in ("from_tei.md", "from_tgi.md"):
        for theirs, ours in zip(_column(page, 1), _column(page, 2), strict=True):
            named = theirs if ours.strip() == "the same" else ours
            flags = set(re.findall(r"--[a-z0-9-]+", named))
            assert flags <= known, flags - known


def test_parameters_that_the_tables_name_exist() -> None:
    found = {
        name
        for row in _column("from_vllm_backend.md", 2)[:20]
        for name in re.findall(r"`([a-z_]+)`", row)
    }
    assert {"model_id", "num_shard", "memory_fraction"} <= found <= SETTINGS, found - SETTINGS
