"""The benchmark of secure aggregation runs and tells what it measured; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks/secure_aggregation.py"


@pytest.mark.slow
def test_secure_sums_are_timed_beside_the_plain_mean_and_the_stream() -> None:
    done = subprocess.run([sys.executable, BENCHMARK, "--quick"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads(done.stdout.splitlines()[-1])["secure_aggregation"]
    assert set(found["rates"]) == {"AES-256-CTR", "AES-128-CTR", "ChaCha20"}
    assert [(one["clients"], one["bits"], one["lost"]) for one in found["rows"]] == [(3, 64, 0), (3, 32, 0), (4, 64, 1)]
    for row in found["rows"]:
        assert 0 < row["limit_seconds"] < row["client_seconds"]
        assert row["plain_seconds"] > 0
        assert row["server_seconds"] > 0
        words = (row["clients"] - row["lost"]) / row["clients"] * row["parameters"] * row["bits"] / 8
        assert words < row["bytes_up"] < words + 6000
    assert [one["recipe"] for one in found["rounds"]] == ["erm", "hgp"]
    for row in found["rounds"]:
        assert 0 < row["plain_seconds"] < row["secure_seconds"]
