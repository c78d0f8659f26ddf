"""A process may use what its affinity, its quota and its control groups leave, and no more."""

import os
from pathlib import Path

import pytest

from fedha.engine import machine

GIB = 2**30


def made(root: Path, files: dict[str, str]) -> Path:
    """A folder that looks like a system to `machine`."""
    for name, text in ({"proc/meminfo": "MemTotal: 33554432 kB\nMemAvailable:   16777216 kB\n"} | files).items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return root


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quota is compared with the affinity, which this machine cannot have of any size."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5}, raising=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system knows no affinity")
def test_cores_are_those_that_the_process_may_run_on(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.cpus(made(tmp_path, {})) == 1
    finally:
        os.sched_setaffinity(0, before)
    assert machine.cpus(tmp_path) == len(before)


QUOTAS = {
    "version 2": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "250000 100000"}, 2),
    "version 2, no limit": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000"}, 4),
    "version 2, less than a core": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "20000 100000"}, 1),
    "version 2, the parent's is less": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/cpu.max": "300000 100000",
            "sys/fs/cgroup/a/cpu.max": "200000 100000",
        },
        2,
    ),
    "version 2, a host's path inside a container": (
        {"proc/self/cgroup": "0::/docker/7f\n", "sys/fs/cgroup/cpu.max": "300000 100000"},
        3,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/a\n2:memory:/b\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "150000",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "50000",
        },
        3,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "3:cpu:/a\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
        },
        4,
    ),
    "more than there are": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "900000 100000"}, 4),
    "no control groups": ({}, 4),
}


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize("case", QUOTAS)
def test_cores_are_cut_to_the_quota_of_every_group_around_the_process(case: str, tmp_path: Path) -> None:
    files, expected = QUOTAS[case]
    assert machine.cpus(made(tmp_path, files)) == expected


ROOMS = {
    "version 2": (
        {
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.max": str(8 * GIB),
            "sys/fs/cgroup/a/memory.current": str(3 * GIB),
            "sys/fs/cgroup/a/memory.stat": f"anon 7\ninactive_file {GIB}\n",
        },
        6 * GIB,
    ),
    "version 2, no limit": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max"}, 16 * GIB),
    "version 2, the parent's is less": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": str(8 * GIB),
            "sys/fs/cgroup/a/memory.max": str(2 * GIB),
            "sys/fs/cgroup/a/memory.current": str(GIB // 2),
        },
        3 * GIB // 2,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "4:memory:/a\n3:cpu:/c\n0::/\n",
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(5 * GIB),
            "sys/fs/cgroup/memory/a/memory.usage_in_bytes": str(2 * GIB),
            "sys/fs/cgroup/memory/a/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}\n",
        },
        4 * GIB,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "4:memory:/a\n",
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "5",
        },
        16 * GIB,
    ),
    "more than the system has left": (
        {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": str(64 * GIB)},
        16 * GIB,
    ),
    "nothing left": (
        {
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.max": str(GIB),
            "sys/fs/cgroup/a/memory.current": str(2 * GIB),
        },
        0,
    ),
}


@pytest.mark.parametrize("case", ROOMS)
def test_memory_is_the_room_left_in_every_group_around_the_process(case: str, tmp_path: Path) -> None:
    files, expected = ROOMS[case]
    assert machine.memory_bytes(made(tmp_path, files)) == expected


def test_shared_memory_is_the_free_space_of_its_folder_or_none(tmp_path: Path) -> None:
    assert machine.shared_memory_bytes(tmp_path) == 0
    (tmp_path / "dev/shm").mkdir(parents=True)
    assert machine.shared_memory_bytes(tmp_path) > 0


def test_this_machine_has_a_core_and_memory_and_no_more_of_either_than_the_system_says() -> None:
    here = machine.look()
    assert 1 <= here.cpus <= (os.cpu_count() or 1)
    assert 0 < here.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
