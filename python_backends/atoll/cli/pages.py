"""Writes the pages of a checkout that are generated from code: ``python -m atoll.cli.pages``."""

from __future__ import annotations

import re
from pathlib import Path

from atoll.cli.chart_schema import chart_schema
from atoll.cli.documents import commands_page, settings_page
from atoll.cli.fields_page import fields_page
from atoll.cli.hardware_table import hardware_page
from atoll.cli.model_table import models_page, readme_table

_TABLE = re.compile(r"(?<=<!-- models:start -->\n)\|.*?\n(?=\n)", re.DOTALL)


def pages(root: Path) -> dict[Path, str]:
    """The expected text of each generated page of a checkout. root: the checkout's folder."""
    readme = (root / "README.md").read_text()
    schema = root / "deploy" / "helm" / "atoll" / "values.schema.json"
    return {
        root / "docs" / "settings.md": settings_page(),
        root / "docs" / "cli.md": commands_page(),
        root / "docs" / "fields.md": fields_page(),
        root / "docs" / "models.md": models_page(),
        root / "docs" / "hardware.md": hardware_page(),
        schema: chart_schema(schema.read_text()),
        root / "README.md": _TABLE.sub(lambda _: readme_table(), readme, count=1),
    }


if __name__ == "__main__":
    for path, text in pages(Path(__file__).resolve().parents[3]).items():
        if path.read_text() != text:
            path.write_text(text)
            print(path)
