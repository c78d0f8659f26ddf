"""What every test shares: no telemetry, Ctrl-C, one thread, the folder of data files, Hypothesis without a deadline.

Tests may run in several processes (pytest-xdist's `-n`): those of a file in one, for the sake of its fixtures, and so
those of the files called test_ray_…, which share one Ray.
"""

import os
import signal
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

# Before anything imports torch, Ray or Flower: they read these once. Processes that tests start inherit them.
os.environ.update(
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
    FLWR_DISABLE_UPDATE_CHECK="1",
    FLWR_TELEMETRY_ENABLED="0",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
    # Python runs child_processes/sitecustomize.py in all that tests start
    PYTHONPATH=os.pathsep.join(
        filter(None, [str(Path(__file__).parent / "child_processes"), os.environ.get("PYTHONPATH")])
    ),
    RAY_USAGE_STATS_ENABLED="0",
    RAY_worker_niceness="0",  # else its workers starve beside whatever else computes on the machine
)
os.environ.pop("COLUMNS", None)  # which pytest-xdist sets, and tables heed

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.commands import Command

_first = Path(__file__).parent / "child_processes" / "sitecustomize.py"
_here = spec_from_file_location("fedha_tests_sitecustomize", _first)
_here.loader.exec_module(module_from_spec(_here))  # this process has begun already

# A shell's background jobs ignore the first, nohup's the second, and so would the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
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


@pytest.fixture
def fedha(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command of `fedha` in an empty folder: exit code, stdout, stderr."""
    from fedha.cli.commands import app  # slow to import, and most tests do not need it
    from fedha.cli.exits import exit_code

    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = exit_code(lambda **settings: app(list(arguments), **settings))
        return code, *capsys.readouterr()

    return command


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[None]:
    """A Ray with two CPUs, for every test of this process that needs no other; runs with two workers find it there."""
    from fedha.engine import ray_session  # slow to import, and most tests do not need it

    ray_session.start(2)
    yield
    ray_session.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray's tests come first: they are the longest batch, and while their workers start the others compute.

    Then those that may take longest, as their time limits say, and of the others those of real processes: what is begun
    last should not be long.
    """
    items.sort(key=lambda item: (not _uses_ray(item.nodeid), -_limit(item), item.get_closest_marker("slow") is None))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hand out batches that stay together, in the order in which they were collected: a class, a file, Ray's tests.

    A process has its next batch when it begins with the last test of one, not before: another may be free sooner.
    """
    from xdist.scheduler import LoadScopeScheduling  # only there where the hook is called

    class Batches(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if _uses_ray(nodeid) else super()._split_scope(nodeid)

        def _reschedule(self, node: Any) -> None:
            if self._pending_of(self.assigned_work[node]) != 2:
                super()._reschedule(node)

    config.option.loadscopereorder = False
    return Batches(config, log)


def _limit(item: pytest.Item) -> float:
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0] if mark else 0)


def _uses_ray(nodeid: str) -> bool:
    return Path(nodeid.partition("::")[0]).name.startswith("test_ray_")


@pytest.fixture
def same_numerics() -> None:
    """A plain loop in the test and the clients of a grid compute with the same settings."""
    from fedha import numerics

    numerics.configure(1)
