"""A plain checkpoint that tests take apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny.encoders import TRUNKS
from tiny.sentence import write_trunk


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    write_trunk(TRUNKS[0], folder)
    return folder


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """A plain BERT checkpoint that a test may change."""
    return Path(shutil.copytree(bert, tmp_path / "model"))
