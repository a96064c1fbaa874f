"""Rendered pages match the code, and links between pages lead somewhere."""

import importlib
import json
import re
from pathlib import Path

import pytest

from atoll import errors
from atoll.catalogue import ENTRIES
from atoll.cli.model_table import file_of, readme_table
from atoll.cli.pages import pages
from atoll.models import families

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_pages_are_rendered() -> None:
    """``make docs`` writes them."""
    for path, text in pages(ROOT).items():
        assert path.read_text() == text, path.name


def test_readme_lists_every_entry_and_architecture() -> None:
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- models:start -->\n(.*)<!-- models:end -->", readme, re.S)
    assert block is not None and readme_table() in block.group(1)
    assert all(f"[{entry.name}]" in readme_table() for entry in ENTRIES)
    tables = (families.DECODERS, families.ENCODERS, families.CLASSES, families.VARIANTS)
    files = {"static_embedding", *(file for table in tables for file in table.values())}
    rows = set(re.findall(r"\| \[(\w+)\.py\]\(python_backends/atoll/models/", readme_table()))
    assert rows == files and {file_of(entry) for entry in ENTRIES} <= files


def test_commands_are_listed() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for name in ("serve", "add", "infer", "chat", "bench", "profile", "warmup", "doctor"):
        assert f"## atoll {name}\n" in page


def test_every_metric_is_listed() -> None:
    """Names in the sources of ``atoll.serving``, with KIND and PART, and in docs/serve.md."""
    sources = (ROOT / "python_backends" / "atoll" / "serving").rglob("*.py")
    code = "".join(path.read_text() for path in sources).replace("{kind}", "KIND")
    code = code.replace("{part}", "PART")
    page = (ROOT / "docs" / "serve.md").read_text()
    listed = set(re.findall(r"`(atoll_\w+)`", page))
    assert listed == set(re.findall(r'"(atoll_\w+)"', code))
    kinds = {error.error_type for error in errors.AtollError.__subclasses__()}
    kinds |= {errors.AtollError.error_type, errors.EmptyInputError.error_type}
    for kind in kinds | set(re.findall(r'AtollError\) else "(\w+)"', code)):
        assert f"`{kind}`" in page.partition("## Metrics")[2]


def test_readme_shows_the_measured_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every race that docs/benchmarks holds, as it was measured."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    summary = importlib.import_module("summary")
    text = (ROOT / "README.md").read_text()
    assert summary.readme(text) == text
    for name in summary.HEADINGS:
        assert (ROOT / "docs" / "benchmarks" / f"{name}.svg").exists()
        for title in json.loads((summary.FOLDER / f"{name}.json").read_text())["races"]:
            assert f"| {title} |" in text


def test_pages_that_name_the_gpu_say_what_ran_there() -> None:
    """The README said "run and measured on an H200", which was true of the engine and its kernels
    only: each paragraph and row that names the card says that the server has not run on one."""
    phases = json.loads((ROOT / "docs" / "benchmarks" / "gpu.json").read_text())["phases"]
    found = {row["name"]: row["value"] for row in phases["environment"]["rows"]}
    card = found["name"].split()[-1]
    named = [
        line
        for page in PAGES
        for line in page.read_text().splitlines()
        if card in line and page.name != "CHANGELOG.md"
    ]
    assert len(named) >= 3
    for line in named:
        assert re.search(r"(server|served model)( itself)? has not run on a GPU yet", line), line


def test_contributing_names_all_that_an_architecture_needs() -> None:
    """Whoever added GPT-2 by what it said had 13 tests elsewhere fail."""
    section = re.search(
        r"## Add an architecture\n(.*?)\n## ", (ROOT / "CONTRIBUTING.md").read_text(), re.S
    )
    assert section is not None
    homes = (ROOT, ROOT / "python_backends" / "atoll")
    named = {}
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", section[1]):
        (named[name],) = (home / name for home in homes if (home / name).exists())
    # Each of these has a row for every family, which tests compare with the registry's.
    assert named.keys() >= {
        "models/families.py", "tests/data/hub_configs/", "tests/models/test_published_sizes.py",
        "tests/support/tiny/decoders.py", "tests/support/tiny/encoders.py",
    }  # fmt: skip
    for tables, name in re.findall(r"((?:`[A-Z_]+`[^`.]*)+) of `([\w/]+\.py)`", section[1]):
        for table in re.findall(r"`([A-Z_]+)`", tables):
            assert re.search(rf"^{table}\b", named[name].read_text(), re.M), f"{table} of {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
