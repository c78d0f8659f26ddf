"""The benchmark of private statistics runs and tells what it measured."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "private_statistics.py"


def test_private_statistics_are_compared_with_plain_ones() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads(done.stdout.splitlines()[-1])["private_statistics"]
    assert set(found) == {"32 x 129 x 7", "512 x 129 x 7"}
    for one in found.values():
        assert one["plain_seconds"] > 0
        assert all(
            one[name] > 0
            for name in ("clipped", "seeded", "site", "seeded draws", "site draws", "network, seeded", "network, site")
        )
