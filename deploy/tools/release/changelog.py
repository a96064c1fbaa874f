"""CHANGELOG.md in the format of Keep a Changelog, and a version's part of it as release notes.

``## [1.2.3] - 2026-01-31`` or ``## [Unreleased]``, in which ``### Added`` and the like hold one
list each. What is anything else is refused with its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date

KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
UNRELEASED = "Unreleased"
_HEADING = re.compile(r"## \[(?P<version>[^\]]+)\](?: - (?P<date>\S+))?$")
_VERSION = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?$")


class ChangelogError(Exception):
    """A line that is not in the format, or a version that is not there."""


@dataclass
class Section:
    """A version's changes by kind. released: None for what is not released yet."""

    version: str
    released: date | None
    changes: dict[str, list[str]] = field(default_factory=dict)

    def notes(self) -> str:
        """The section as it stands in the file, without its heading."""
        parts = [f"### {kind}\n\n" + "\n".join(lines) for kind, lines in self.changes.items()]
        return "\n\n".join(parts) + "\n"


def parse(text: str) -> list[Section]:
    """The versions of a changelog, newest first.

    Raises:
        ChangelogError: a line is not in the format.
    """
    sections: list[Section] = []
    kind = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            sections.append(_section(line, number))
            kind = ""
        elif line.startswith("### "):
            kind = line[4:]
            if kind not in KINDS or not sections or kind in sections[-1].changes:
                raise ChangelogError(f"line {number}: {line!r}: once each of {', '.join(KINDS)}")
            sections[-1].changes[kind] = []
        elif line.startswith("- ") and kind:
            sections[-1].changes[kind].append(line)
        elif line and sections:
            raise ChangelogError(f"line {number}: {line[:60]!r} is in no list of a kind")
    dates = [section.released for section in sections if section.released]
    if dates != sorted(dates, reverse=True):
        raise ChangelogError("versions are not ordered by date, newest first")
    return sections


def section_of(text: str, version: str) -> Section:
    """The section of a version, or that of the next one if the version has none yet.

    Raises:
        ChangelogError: there is neither, or it has no line.
    """
    found = {section.version: section for section in parse(text)}
    section = found.get(version) or found.get(UNRELEASED)
    if section is None or not any(section.changes.values()):
        raise ChangelogError(f"there are no lines for [{version}], nor for [{UNRELEASED}]")
    return section


def _section(line: str, number: int) -> Section:
    found = _HEADING.match(line)
    if not found:
        raise ChangelogError(f"line {number}: {line!r} is not '## [VERSION] - YYYY-MM-DD'")
    version, day = found["version"], found["date"]
    if version == UNRELEASED and day is None:
        return Section(version, None)
    if not _VERSION.match(version):
        raise ChangelogError(f"line {number}: {version!r} is not MAJOR.MINOR.PATCH")
    try:
        return Section(version, date.fromisoformat(day or ""))
    except ValueError as error:
        raise ChangelogError(f"line {number}: [{version}] has no date YYYY-MM-DD") from error
