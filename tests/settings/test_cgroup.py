"""Cores and memory of a container, over made-up trees of control groups."""

import os
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
import torch

from atoll import cgroup
from atoll.config import Settings
from atoll.models import load_options

GIB = 1 << 30
V2 = "30 24 0:26 {base} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = (
    "31 24 0:27 {base} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 24 0:28 {base} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "33 24 0:29 {base} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"
)
OWN_V1 = "5:memory:{path}\n4:cpuset:{path}\n3:cpu,cpuacct:{path}\n1:name=systemd:{path}"


def tree(root: Path, own: str, mounts: str, files: Mapping[str, str]) -> Path:
    """A root folder with /proc and /sys/fs/cgroup; ``files``: by their path below the latter."""
    written = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    written |= {
        "proc/self/cgroup": own,
        "proc/self/mountinfo": "24 1 8:1 / / rw - ext4 x rw\n" + mounts,
    }
    for name, text in written.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cores, 256 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    found = psutil.virtual_memory()._replace(available=256 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: found)


CORES: dict[str, tuple[str, str, dict[str, str], int]] = {
    "none": ("0::/", V2.format(base="/"), {}, 64),
    "no quota": ("0::/a", V2.format(base="/"), {"a/cpu.max": "max 100000"}, 64),
    "a pod": ("0::/", V2.format(base="/"), {"cpu.max": "200000 100000"}, 2),
    "two and a half": ("0::/", V2.format(base="/"), {"cpu.max": "250000 100000"}, 2),
    "less than one": ("0::/", V2.format(base="/"), {"cpu.max": "30000 100000"}, 1),
    "nested, outer is smaller": (
        "0::/pods/a/b", V2.format(base="/"),
        {"pods/cpu.max": "max 100000", "pods/a/cpu.max": "300000 100000",
         "pods/a/b/cpu.max": "800000 100000"}, 3,
    ),
    "nested, inner is smaller": (
        "0::/a/b", V2.format(base="/"),
        {"a/cpu.max": "800000 100000", "a/b/cpu.max": "100000 50000"}, 2,
    ),
    "cpuset": ("0::/a", V2.format(base="/"), {"a/cpuset.cpus.effective": "0-3,8,10-11"}, 7),
    "cpuset and quota": (
        "0::/a", V2.format(base="/"),
        {"a/cpuset.cpus.effective": "0-3", "a/cpu.max": "600000 100000"}, 4,
    ),
    "host path without a namespace": (
        "0::/docker/abc", V2.format(base="/docker/abc"), {"cpu.max": "400000 100000"}, 4,
    ),
    "path that is not mounted": ("0::/x/y", V2.format(base="/z"), {"cpu.max": "500000 100000"}, 5),
    "version 1": (
        OWN_V1.format(path="/a"), V1.format(base="/"),
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "200000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
         "cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2,
    ),
    "version 1, nested": (
        OWN_V1.format(path="/a/b"), V1.format(base="/"),
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "150000", "cpu,cpuacct/a/cpu.cfs_period_us": "50000",
         "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1", "cpu,cpuacct/a/b/cpu.cfs_period_us": "50000"}, 3,
    ),
    "version 1, cpuset": (
        OWN_V1.format(path="/a"), V1.format(base="/"), {"cpuset/a/cpuset.cpus": "4-5"}, 2,
    ),
    "version 1 in Docker": (
        OWN_V1.format(path="/docker/abc"), V1.format(base="/docker/abc"),
        {"cpu,cpuacct/cpu.cfs_quota_us": "600000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 6,
    ),
    "both versions": (
        f"{OWN_V1.format(path='/a')}\n0::/a", f"{V1.format(base='/')}\n{V2.format(base='/')}",
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
        3,
    ),
    "nonsense": ("0::/a", V2.format(base="/"), {"a/cpu.max": "", "a/cpuset.cpus": "x-"}, 64),
}  # fmt: skip


@pytest.mark.parametrize("name", CORES)
def test_cores(name: str, tmp_path: Path) -> None:
    """64 threads and 32 tokenizers were started in a pod with two cores of a host of 64."""
    own, mounts, files, expected = CORES[name]
    assert cgroup.num_cores(tree(tmp_path, own, mounts, files)) == expected


MEMORY: dict[str, tuple[str, str, dict[str, str], int]] = {
    "none": ("0::/", V2.format(base="/"), {"memory.max": "max"}, 256),
    "a pod": (
        "0::/", V2.format(base="/"), {"memory.max": f"{4 * GIB}", "memory.current": f"{GIB}"}, 3,
    ),
    "files are given up": (
        "0::/", V2.format(base="/"),
        {"memory.max": f"{4 * GIB}", "memory.current": f"{3 * GIB}",
         "memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file 7"}, 2,
    ),
    "high is below max": (
        "0::/", V2.format(base="/"),
        {"memory.max": f"{8 * GIB}", "memory.high": f"{5 * GIB}", "memory.current": "0"}, 5,
    ),
    "nested": (
        "0::/a/b", V2.format(base="/"),
        {"a/memory.max": f"{8 * GIB}", "a/memory.current": f"{7 * GIB}",
         "a/b/memory.max": f"{4 * GIB}", "a/b/memory.current": f"{GIB}"}, 1,
    ),
    "nothing is left": (
        "0::/", V2.format(base="/"), {"memory.max": f"{GIB}", "memory.current": f"{2 * GIB}"}, 0,
    ),
    "version 1": (
        OWN_V1.format(path="/a"), V1.format(base="/"),
        {"memory/a/memory.limit_in_bytes": f"{6 * GIB}",
         "memory/a/memory.usage_in_bytes": f"{2 * GIB}",
         "memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}",
         "memory/memory.limit_in_bytes": "9223372036854771712"}, 5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEMORY)
def test_memory(name: str, tmp_path: Path) -> None:
    """The KV cache was sized by the host's memory, and the pod was killed."""
    own, mounts, files, expected = MEMORY[name]
    assert cgroup.available_memory(tree(tmp_path, own, mounts, files)) == expected * GIB


def test_this_machine() -> None:
    assert 1 <= cgroup.num_cores() <= 64 and 0 < cgroup.available_memory() <= 256 * GIB


def test_a_machine_without_proc(tmp_path: Path) -> None:
    assert cgroup.num_cores(tmp_path) == 64
    assert cgroup.available_memory(tmp_path) == 256 * GIB


@pytest.mark.parametrize(("asked", "cores", "expected"), [(0, 2, 2), (0, 64, 5), (3, 2, 3)])
def test_threads(asked: int, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that was asked for stands; the default is torch's, but no more than the quota."""
    before = torch.get_num_threads()
    monkeypatch.setattr(load_options, "num_cores", lambda: cores)
    try:
        torch.set_num_threads(5)
        load_options.prepare_process(Settings(num_threads=asked))
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
