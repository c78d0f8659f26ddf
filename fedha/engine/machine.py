"""What this process may use of its machine: cores, memory and GPUs, inside the limits of its control groups."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("sys/fs/cgroup")
_UNLIMITED = 2**60  # version 1 of control groups says a number near 2**63 where there is no limit


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees.

    Attributes:
        name: As the driver calls it.
        memory_bytes: In all, whoever uses it.
    """

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Machine:
    """What a process may use.

    Attributes:
        cpus: Cores, at least 1: those it may run on, and no more than its quota pays for.
        memory_bytes: Memory that it may still take.
        shared_memory_bytes: Free space of /dev/shm; 0 where there is none.
        gpus: Those that CUDA_VISIBLE_DEVICES leaves.
    """

    cpus: int
    memory_bytes: int
    shared_memory_bytes: int
    gpus: tuple[Gpu, ...] = ()


def look(root: Path = Path("/")) -> Machine:
    """What this process may use.

    Args:
        root: Where proc, sys and dev are.
    """
    return Machine(cpus(root), memory_bytes(root), shared_memory_bytes(root), gpus())


def cpus(root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: its affinity, cut to the quota of its control groups."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _groups(root, "cpu") if (quota := _quota(folder)) is not None]
    return max(1, int(min([allowed, *quotas])))


def memory_bytes(root: Path = Path("/")) -> int:
    """Memory that this process may still take: what the system has left, cut to the room in its control groups."""
    rooms = [room for folder in _groups(root, "memory") if (room := _room(folder)) is not None]
    return max(0, min([_system_memory(root), *rooms]))


def shared_memory_bytes(root: Path = Path("/")) -> int:
    """Free space of /dev/shm, where Ray keeps what processes share; 0 where there is none."""
    try:
        system = os.statvfs(root / "dev/shm")
    except OSError:
        return 0
    return system.f_bavail * system.f_frsize


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that torch sees; none where torch was built without CUDA."""
    import torch  # slow to import, and the other questions do not need it

    if not torch.cuda.is_available():
        return ()
    properties = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
    return tuple(Gpu(one.name, one.total_memory) for one in properties)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process' control group and of those around it, for both versions of control groups.

    Inside a container the path may be the host's: the part of it that is not mounted here is passed over.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if not names:
            mounts = [root / _CGROUPS, root / _CGROUPS / "unified"]
        elif controller in names.split(","):
            mounts = [root / _CGROUPS / controller, root / _CGROUPS / names]
        else:
            continue
        mount = next((one for one in mounts if one.is_dir()), mounts[0])
        group = Path(path.lstrip("/"))
        yield from (mount / one for one in (group, *group.parents))


def _quota(folder: Path) -> float | None:
    """Cores that a group's quota pays for; None without one."""
    quota, period = (_text(folder / "cpu.max").split() or ["max", ""])[:2]
    if quota == "max":
        quota, period = _text(folder / "cpu.cfs_quota_us") or "-1", _text(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if int(quota) > 0 else None


def _room(folder: Path) -> int | None:
    """Bytes that a group may still take, where what it only caches counts as free; None without a limit."""
    for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        most = _text(folder / limit)
        if most and most != "max" and int(most) < _UNLIMITED:
            statistics = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines())
            cached = statistics.get("total_inactive_file") or statistics.get("inactive_file") or "0"
            return int(most) - max(0, int(_text(folder / usage) or "0") - int(cached))
    return None


def _system_memory(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # macOS: all of it, free or not


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
