"""Where a section computes, how long it may, and what it found, which is written as soon as it is known."""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Report:
    """Everything that was found.

    Attributes:
        file: A JSON, written anew with every line.
        found: By section and key.
        left_out: What was not measured, and why.
        failed: Sections that ended with an error.
    """

    file: Path
    found: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Put it on the disk."""
        told = {"found": self.found, "left_out": self.left_out, "failed": self.failed}
        self.file.write_text(json.dumps(told, indent=1) + "\n")


@dataclass
class Stage:
    """One section's surroundings.

    Attributes:
        name: The section's.
        device: Where it computes.
        tiny: Whether sizes are such that a processor does everything in seconds.
        until: When its time is over, by `time.monotonic`.
        report: Where its lines go.
    """

    name: str
    device: torch.device
    tiny: bool
    until: float
    report: Report

    def over(self, what: str) -> bool:
        """Whether the section's time is over; then what was to come is told as left out."""
        if time.monotonic() < self.until:
            return False
        self.leave_out(f"{what}: the section's time was over")
        return True

    def leave_out(self, why: str) -> None:
        """Tell what is not measured."""
        self.report.left_out.append(f"{self.name}: {why}")
        self.report.write()
        print(f"  left out: {why}", flush=True)

    def say(self, key: str, values: Mapping[str, Any]) -> None:
        """One line of figures."""
        self.report.found.setdefault(self.name, {})[key] = dict(values)
        self.report.write()
        told = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
        print(f"  {key}: {told}", flush=True)

    def wait(self) -> None:
        """Until the card has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Wall-clock seconds of some work, to its end on the card."""
        self.wait()
        begun = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - begun

    def megabytes(self, work: Callable[[], Any]) -> float:
        """The most that some work holds on the card beside what lay there before."""
        if self.device.type != "cuda":
            work()
            return 0.0
        self.wait()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.wait()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20

    def pairs(self, sides: Mapping[str, Iterator[Any]], warm: int, repeats: int) -> dict[str, list[float]]:
        """Seconds of each side's steps, the sides in turns; fewer where the section's time ends."""
        for side in sides.values():
            for _ in range(warm):
                next(side)
        found: dict[str, list[float]] = {name: [] for name in sides}
        for repeat in range(repeats):
            if repeat >= 3 and time.monotonic() > self.until:
                break
            for name, side in sides.items():
                found[name].append(self.seconds(lambda side=side: next(side)))
        return found


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median of the pairs' ratios."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def milliseconds(times: list[float]) -> float:
    """The median."""
    return 1e3 * statistics.median(times)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
