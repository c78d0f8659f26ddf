"""What processes use, as Linux's /proc tells: who belongs to whom, CPU time, memory; and the machine they run on."""

import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> set[int]:
    """A process and everything that it, or one of these, started."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children.setdefault(int(_fields(path)[1]), []).append(int(path.parent.name))
    found, left = set(), [root]
    while left:
        one = left.pop()
        found.add(one)
        left += children.get(one, [])
    return found


def birth(pid: int) -> int:
    """When a process started, in ticks since the machine did; 0 when it has gone."""
    with suppress(OSError):
        return int(_fields(Path(f"/proc/{pid}/stat"))[19])
    return 0


def cpu_seconds(pids: set[int]) -> float:
    """User and system time of these processes, and of their children that have ended."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += sum(map(int, _fields(Path(f"/proc/{pid}/stat"))[11:15]))
    return total / _TICKS


def own_cpu_seconds(root: int) -> dict[tuple[int, int], float]:
    """User and system time of a process and of each that it, or one of these, started, by number and birth.

    Whoever asks often enough has the time of those that ended too.
    """
    found = {}
    for pid in tree(root):
        with suppress(OSError):
            fields = _fields(Path(f"/proc/{pid}/stat"))
            found[pid, int(fields[19])] = sum(map(int, fields[11:13])) / _TICKS
    return found


def memory_bytes(pid: int) -> tuple[int, int]:
    """What a process holds of its own, and of shared memory; a page counts in parts for those that share it (PSS).

    Nothing when it has gone.
    """
    own = shared = 0
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_File:")):
                own += 1024 * int(line.split()[1])
            elif line.startswith("Pss_Shmem:"):
                shared += 1024 * int(line.split()[1])
    return own, shared


def command(pid: int) -> str:
    """A process' command line; empty when it has gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """One line: processor, cores, load, versions of what the figures depend on."""
    rows = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((row.partition(":")[2].strip() for row in rows if row.startswith("model name")), platform.processor())
    load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "flwr", "ray"))
    return f"{model or platform.machine()}, {cores()} cores, load average {load}, {packages}"


def _fields(stat: Path) -> list[str]:
    """What follows the name, which may hold anything, in a stat file: state, parent, …"""
    return stat.read_text(errors="replace").rpartition(")")[2].split()
