"""The tests that need a card, run by pytest."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

from card.stage import Stage

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("pytest", "hypothesis", "flwr")


def check(stage: Stage) -> None:
    """Run those marked `gpu`; without a card they are skipped, which is said."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        stage.leave_out(f"{', '.join(missing)} not installed")
        return
    command = [sys.executable, "-m", "pytest", "tests/test_gpu.py", "-q", "-rs", "-p", "no:cacheprovider"]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=max(20.0, stage.until - time.monotonic()),
    )
    print(done.stdout[-6000:], done.stderr[-2000:], flush=True)
    last = done.stdout.strip().splitlines()
    stage.say("pytest", {"exit status": done.returncode, "said": last[-1] if last else ""})
    if done.returncode:
        raise RuntimeError("tests failed; see above")
