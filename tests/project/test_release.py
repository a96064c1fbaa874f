"""What ``make release`` makes: both distributions from a checkout or from a source distribution,
their contents, versions, bill of materials and notes.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from dataclasses import replace
from email.parser import Parser
from pathlib import Path

import pytest

import atoll
import atoll_client
from atoll_client.gateway.documentation import describe
from atoll_client.gateway.routes import ROUTES
from release import changelog, distributions, materials

ROOT = Path(__file__).resolve().parents[2]
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what both distributions are built into."""
    folder = tmp_path_factory.mktemp("dist")
    for each in distributions.DISTRIBUTIONS:
        distributions.build(ROOT / each.folder, folder, EPOCH)
    return folder


def wheel(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"{name}-*.whl")
    return found


def test_wheels_have_every_file_of_their_packages_and_no_other(built: Path) -> None:
    """Kernels' sources, web pages, examples and licences; no tests, no caches."""
    for each in distributions.DISTRIBUTIONS:
        distributions.check_contents(ROOT, each, wheel(built, each.stem))
    names = zipfile.ZipFile(wheel(built, "atoll")).namelist()
    assert "atoll_kernels/cpu/native/src/linear.cpp" in names and "atoll/py.typed" in names
    names = zipfile.ZipFile(wheel(built, "atoll_client")).namelist()
    inside = ("example_answers.json", "assets/index.html", "assets/swagger-ui/swagger-ui.css")
    assert {f"atoll_client/gateway/{name}" for name in inside} <= set(names)


def test_a_wheel_with_another_file_or_without_one_is_refused(built: Path, tmp_path: Path) -> None:
    client = distributions.DISTRIBUTIONS[1]
    copy = shutil.copy(wheel(built, client.stem), tmp_path)
    with zipfile.ZipFile(copy, "a") as archive:
        archive.writestr("tests/test_more.py", "")
    with pytest.raises(distributions.ReleaseError, match=r"should not have \['tests/test_more.py"):
        distributions.check_contents(ROOT, client, Path(copy))
    other = replace(client, licences=client.licences | {"NOTICE"})
    with pytest.raises(distributions.ReleaseError, match=r"lacks \['.*/NOTICE'"):
        distributions.check_contents(ROOT, other, wheel(built, client.stem))


def test_an_index_would_take_them(built: Path) -> None:
    distributions.check_metadata(sorted(built.iterdir()))
    broken = built.parent / "atoll-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("atoll-0.1.0.dist-info/METADATA", "Metadata-Version: 2.4\nName: atoll\n")
    with pytest.raises(distributions.ReleaseError, match="twine check"):
        distributions.check_metadata([broken])


def test_source_distributions_build_the_same_files(built: Path, tmp_path: Path) -> None:
    """Byte for byte, elsewhere and for a user with other permissions: builds are reproducible."""
    for each in distributions.DISTRIBUTIONS:
        (source,) = built.glob(f"{each.stem}-*.tar.gz")
        with tarfile.open(source) as archive:
            archive.extractall(tmp_path, filter="data")
        folder = tmp_path / source.name.removesuffix(".tar.gz")
        for path in folder.rglob("*.py"):
            path.chmod(0o600)
        distributions.build(folder, tmp_path / "again", EPOCH)
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert again == {path.name: path.read_bytes() for path in built.iterdir()}


def test_everything_says_the_same_version(built: Path) -> None:
    version = distributions.common_version(ROOT)
    assert version == atoll.__version__ == atoll_client.__version__
    assert describe(ROUTES)["info"]["version"] == version
    for each in distributions.DISTRIBUTIONS:
        with zipfile.ZipFile(wheel(built, each.stem)) as archive:
            info = f"{each.stem}-{version}.dist-info/METADATA"
            metadata = Parser().parsestr(archive.read(info).decode())
        assert metadata["Version"] == version and metadata["License-Expression"] == "Apache-2.0"
    assert (ROOT / "client" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_versions_that_differ_are_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for each in distributions.DISTRIBUTIONS:
        path = Path(each.folder, each.packages[0], "__init__.py")
        (tmp_path / path).parent.mkdir(parents=True)
        shutil.copy(ROOT / path, tmp_path / path)
    assert distributions.common_version(tmp_path) == atoll.__version__
    package = tmp_path / "client" / "atoll_client" / "__init__.py"
    package.write_text(package.read_text().replace(f'"{atoll.__version__}"', '"9.0.0"'))
    with pytest.raises(distributions.ReleaseError, match="the versions differ.*9.0.0"):
        distributions.common_version(tmp_path)
    own = tmp_path / "python_backends" / "atoll" / "__init__.py"
    own.write_text(own.read_text().replace(f'"{atoll.__version__}"', '"9.0.0"'))
    with pytest.raises(distributions.ReleaseError, match=r"\[gateway\]>=9.0.0,<9.1"):
        distributions.common_version(tmp_path)


def test_the_bill_lists_what_is_installed_and_no_tools() -> None:
    bill = materials.materials("1.2.3", {**os.environ, **EPOCH})
    versions = {component["name"]: component["version"] for component in bill["components"]}
    assert {"torch", "nvidia-pytriton", "atoll-client", "uvicorn"} <= versions.keys()
    assert not {"pytest", "ruff", "hatchling", "mkdocs", "atoll"} & versions.keys()
    assert bill["metadata"]["component"]["version"] == "1.2.3"
    (own,) = (each for each in bill["dependencies"] if each["ref"] == "atoll==" + atoll.__version__)
    assert any(ref.startswith("torch==") for ref in own["dependsOn"])
    assert str(ROOT) not in str(bill)


def test_the_changelog_is_in_the_format_and_has_this_versions_notes() -> None:
    section = changelog.section_of((ROOT / "CHANGELOG.md").read_text(), atoll.__version__)
    assert section.changes.keys() <= set(changelog.KINDS)
    assert section.notes().startswith("### ") and "`make release`" in section.notes()


def test_notes_are_those_of_the_version() -> None:
    text = "# Changelog\n\nIntro.\n\n## [Unreleased]\n\n### Fixed\n\n- c\n\n"
    text += "## [0.2.0] - 2026-02-01\n\n### Added\n\n- a\n- b\n\n### Removed\n\n- d\n"
    assert changelog.section_of(text, "0.2.0").notes() == (
        "### Added\n\n- a\n- b\n\n### Removed\n\n- d\n"
    )
    assert changelog.section_of(text, "0.3.0").version == "Unreleased"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("## 0.1.0 (unreleased)\n", "line 1: .* is not '## .VERSION. - YYYY-MM-DD'"),
        ("## [0.1] - 2026-01-01\n", "'0.1' is not MAJOR.MINOR.PATCH"),
        ("## [0.1.0]\n", r"\[0.1.0\] has no date"),
        ("## [0.1.0] - 2026-13-01\n", r"\[0.1.0\] has no date"),
        ("## [Unreleased]\n\n### News\n", "line 3: '### News': once each of Added, Changed"),
        ("## [Unreleased]\n- a\n", "line 2: '- a' is in no list"),
        ("## [Unreleased]\n\n### Added\n", r"no lines for \[1.0.0\]"),
        ("## [0.1.0] - 2026-01-01\n## [0.2.0] - 2026-02-01\n", "not ordered by date"),
    ],
)
def test_a_changelog_in_another_format_is_refused(text: str, message: str) -> None:
    with pytest.raises(changelog.ChangelogError, match=message):
        changelog.section_of(text, "1.0.0")
