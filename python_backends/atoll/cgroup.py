"""What this process may use of the machine: cores and memory, control groups considered.

A container with a quota sees all cores and all memory of its host. Version 2 and version 1 of the
kernel's control groups are read, each with its ancestors: the smallest limit on the way up counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")
# Version 1 writes this, rounded down to a page, where there is no limit.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class _Group:
    """One control group's folder. is_unified: of version 2."""

    folder: Path
    is_unified: bool

    def number(self, name: str) -> int | None:
        """A file's number; None: no such file, or no limit."""
        text = self._text(name)
        is_limit = text.lstrip("-").isdecimal() and 0 <= int(text) < _NO_LIMIT
        return int(text) if is_limit else None

    def cores(self) -> float | None:
        """What the quota allows and the set of cores holds."""
        found: list[float] = []
        if self.is_unified:
            quota, _, period = self._text("cpu.max").partition(" ")
            sets = self._text("cpuset.cpus.effective") or self._text("cpuset.cpus")
        else:
            quota, period = self._text("cpu.cfs_quota_us"), self._text("cpu.cfs_period_us")
            sets = self._text("cpuset.effective_cpus") or self._text("cpuset.cpus")
        if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
            found.append(int(quota) / int(period))
        if num_listed := _num_listed(sets):
            found.append(num_listed)
        return min(found, default=None)

    def free_bytes(self) -> int | None:
        """What is left of the limit; pages of files that nobody uses are given up if need be."""
        if self.is_unified:
            limits = [self.number("memory.max"), self.number("memory.high")]
            used, reclaimable = self.number("memory.current"), "inactive_file"
        else:
            limits = [self.number("memory.limit_in_bytes")]
            used, reclaimable = self.number("memory.usage_in_bytes"), "total_inactive_file"
        known = [limit for limit in limits if limit is not None]
        if not known:
            return None
        lines = (line.split() for line in self._text("memory.stat").splitlines())
        kept = {line[0]: int(line[1]) for line in lines if len(line) == 2}
        return max(min(known) - (used or 0) + kept.get(reclaimable, 0), 0)

    def _text(self, name: str) -> str:
        try:
            return (self.folder / name).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return ""


def num_cores(root: Path = _ROOT) -> int:
    """Cores that this process may keep busy, at least one. root: where /proc and /sys are."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [cores for group in _groups(root) if (cores := group.cores()) is not None]
    return max(1, int(min([float(affinity or 1), *limits])))


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that this process may still take without being stopped for it."""
    import psutil

    limits = [free for group in _groups(root) if (free := group.free_bytes()) is not None]
    return min([int(psutil.virtual_memory().available), *limits])


def _groups(root: Path) -> Iterator[_Group]:
    """This process's groups of all hierarchies, and their ancestors as far as they are seen."""
    own = dict(_own_paths(root))
    for kind, controllers, base, mounted in _mounts(root):
        names = [""] if kind == "cgroup2" else [name for name in own if name in controllers]
        for path in {own[name] for name in names if name in own}:
            # A container without a namespace of its own reads the host's path, and sees its part.
            inner = path[len(base) :] if path.startswith(base.rstrip("/") + "/") else ""
            folder = mounted / inner.strip("/")
            while True:
                if folder.is_dir():
                    yield _Group(folder, kind == "cgroup2")
                if folder == mounted:
                    break
                folder = folder.parent


def _own_paths(root: Path) -> Iterator[tuple[str, str]]:
    """(controller, path) of /proc/self/cgroup; "" is version 2."""
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for name in controllers.split(","):
            if "/.." not in path:
                yield name, path


def _mounts(root: Path) -> Iterator[tuple[str, list[str], str, Path]]:
    """(kind, controllers, the part that is mounted, where) of the hierarchies."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) >= 5 and len(kinds) >= 3 and kinds[0] in ("cgroup", "cgroup2"):
            where = root / fields[4].lstrip("/")
            yield kinds[0], kinds[2].split(","), fields[3], where


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _num_listed(text: str) -> int:
    """Cores of a list such as "0-3,8"; 0: no list."""
    count = 0
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            return 0
        count += int(last or first) - int(first) + 1
    return count
