"""Builds both distributions into ``dist/``, checks them, and writes what a release has beside them:
SHA256SUMS, a bill of materials and the release notes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from .changelog import ChangelogError, section_of
from .distributions import (
    DISTRIBUTIONS,
    ReleaseError,
    build,
    check_contents,
    check_metadata,
    common_version,
)
from .materials import write_materials

ROOT = Path(__file__).resolve().parents[3]


def main() -> None:
    """Ends with a line that says what is wrong, or lists what was made."""
    parser = argparse.ArgumentParser(prog="release", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the files go")
    parser.add_argument(
        "--allow-dirty", action="store_true", help="build what is not committed, to try it"
    )
    options = parser.parse_args()
    try:
        release(options.out, options.allow_dirty)
    except (ReleaseError, ChangelogError) as error:
        sys.exit(f"release: {error}")


def release(out: Path, allow_dirty: bool) -> None:
    """Raises ReleaseError, ChangelogError: the checkout is not what a release is made from."""
    version = common_version(ROOT)
    section = section_of((ROOT / "CHANGELOG.md").read_text(), version)
    changed = _git("status", "--porcelain")
    if changed and not allow_dirty:
        raise ReleaseError(f"there are changes that are not committed:\n{changed}")
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH")
        or _git("log", "-1", "--format=%ct"),
    }
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("atoll*"):
        old.unlink()
    for each in DISTRIBUTIONS:
        build(ROOT / each.folder, out, environment)
        check_contents(ROOT, each, out / f"{each.stem}-{version}-py3-none-any.whl")
    built = sorted(out.glob(f"atoll*-{version}*"))
    check_metadata(built)
    bill = out / f"atoll-{version}.cdx.json"
    count = write_materials(bill, version, environment)
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in (*built, bill)]
    (out / "SHA256SUMS").write_text("".join(sums))
    (out / "RELEASE_NOTES.md").write_text(section.notes())
    for path in (*built, bill, out / "SHA256SUMS", out / "RELEASE_NOTES.md"):
        print(f"{path.stat().st_size:>10,}  {path.name}")
    print(f"version {version}, {count} components in the bill of materials")
    if section.released is None:
        print(f"CHANGELOG.md has these lines under [{section.version}]: not a release yet")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise ReleaseError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
