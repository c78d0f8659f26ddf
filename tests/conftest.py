"""What every test shares: no telemetry, Ctrl-C, one thread, the folder of data files, Hypothesis without a deadline."""

import os
import signal
from pathlib import Path

# Before anything imports torch, Ray or Flower: they read these once. Processes that tests start inherit them.
os.environ.update(
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
    FLWR_DISABLE_UPDATE_CHECK="1",
    FLWR_TELEMETRY_ENABLED="0",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
    RAY_USAGE_STATS_ENABLED="0",
)

import pytest
import torch
from hypothesis import HealthCheck, settings

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would theirs
torch.set_num_threads(1)

# A machine under load is slow, not wrong. Where CI is set the examples are the same each time; elsewhere they explore.
settings.register_profile(
    "fedha",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fedha")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with mnist/ and heart/: FEDHA_TEST_DATA, or shared/data beside the checkout; skips without it."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("FEDHA_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(
            f"needs the real data files: {folder} is no folder; set FEDHA_TEST_DATA to one with mnist/ and heart/"
        )
    return folder
