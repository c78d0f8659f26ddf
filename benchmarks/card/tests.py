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
    command = [sys.executable, "-m", "pytest", "tests/test_gpu.py", "-q", "-rs", "--tb=short", "-p", "no:cacheprovider"]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    sys.stdout.flush()
    try:
        done = subprocess.run(command, cwd=ROOT, env=own, timeout=max(20.0, stage.until - time.monotonic()))
    except subprocess.TimeoutExpired:
        stage.leave_out("the last of the tests: the section's time was over")
        return
    stage.say("pytest", {"exit status": done.returncode})
    if done.returncode:
        raise RuntimeError("tests failed; see above")
