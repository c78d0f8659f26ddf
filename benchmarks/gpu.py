"""fedha on one GPU, in one prepared run of some minutes; it needs no network, no Ray, and Flower for parts alone.

    python benchmarks/gpu.py [--minutes 6] [--out FOLDER] [--sections NAME ...] [--dry-run]

- agreement: what the card computes is what the processor computes, to 1e-10 in float64, and the same each time.
- tests: those marked `gpu` (tests/test_gpu.py), where pytest and Flower are installed.
- speed: a synchronous round of ResNet-18 and -50 at 224 pixels against a hand-written loop's step.
- processes: 1 to 8 plain processes on the card.
- cohorts: many small clients together and one by one.
- decoding: decoding JPEGs and stepping, in turns and at once.

Every line is printed, and written to gpu.json in the folder, as soon as it is known. A section that takes longer than
its part of the minutes is cut, and what is missing is said; so is what needs a package that is not there. `--dry-run`
does all of it on the processor, tiny.
"""

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for folder in (str(ROOT), str(ROOT / "benchmarks")):
    if folder not in sys.path:
        sys.path.insert(0, folder)

PARTS = {"agreement": 0.16, "tests": 0.18, "speed": 0.31, "processes": 0.17, "cohorts": 0.06, "decoding": 0.12}
NEEDED = ("torch", "numpy", "pydantic", "yaml", "PIL", "cryptography")  # of fedha without Flower


def section(name: str) -> "Callable[[object], None]":
    """What a section does; imported when its turn comes."""
    from card import agreement, cohorts, decoding, processes, speed, tests

    found = {"agreement": agreement.check, "tests": tests.check, "speed": speed.compare}
    found |= {"processes": processes.compare, "cohorts": cohorts.compare, "decoding": decoding.compare}
    return found[name]


def machine() -> str:
    """One line: the card, the processor's cores, and the versions that figures depend on."""
    import torch

    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    memory = (
        f", {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB" if torch.cuda.is_available() else ""
    )
    exact = "TF32 in convolutions" if torch.backends.cudnn.allow_tf32 else "no TF32"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{card}{memory}, {os.cpu_count()} cores, {versions}, {exact}"


def commit() -> str:
    """Of the tree that is measured, where git and its folder are there."""
    try:
        asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def measure(given: argparse.Namespace) -> int:
    """Run the sections; the exit status."""
    import torch
    from card.stage import Report, Stage

    from fedha import numerics

    numerics.configure(1 if given.dry_run else min(4, os.cpu_count() or 1))
    begun, whole = time.monotonic(), 60 * given.minutes
    device = torch.device("cpu" if given.dry_run else "cuda")
    report = Report(given.out / "gpu.json", {"machine": machine(), "commit": commit()})
    print(report.found["machine"], flush=True)
    parts = {name: PARTS[name] for name in given.sections}
    for name, part in parts.items():
        left = begun + whole - time.monotonic()
        rest = sum(list(parts.values())[list(parts).index(name) :])
        stage = Stage(name, device, given.dry_run, time.monotonic() + left * part / rest, report)
        print(f"{name} (up to {left * part / rest:.0f} s)", flush=True)
        started = time.monotonic()
        try:
            section(name)(stage)
        except (Exception, SystemExit) as error:  # the other sections' figures are not to be lost with it
            traceback.print_exc()
            report.failed.append(f"{name}: {type(error).__name__}: {error}")
        stage.say("took", {"s": time.monotonic() - started})
        if device.type == "cuda":
            torch.cuda.empty_cache()
            stage.say("memory left behind", {"MiB": torch.cuda.memory_allocated() / 2**20})
    for told, lines in (("left out", report.left_out), ("FAILED", report.failed)):
        for line in lines:
            print(f"{told}: {line}", flush=True)
    print(f"all in {time.monotonic() - begun:.0f} s", flush=True)
    return 1 if report.failed else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6.0, help="for everything")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "."), help="for gpu.json")
    parser.add_argument("--sections", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the processor")
    given = parser.parse_args()
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise SystemExit(f"this needs {', '.join(missing)}, which Python does not find here")
    import torch

    if not given.dry_run and not torch.cuda.is_available():
        print("left out: torch sees no GPU here; --dry-run tries everything on the processor")
        return
    given.out.mkdir(parents=True, exist_ok=True)
    raise SystemExit(measure(given))


if __name__ == "__main__":
    main()
