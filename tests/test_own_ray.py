"""Ray starts quietly in a folder of its own, is kept, and leaves nothing behind however its process ends."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedha.engine import leftovers, ray_session
from fedha.errors import FedhaError

_PROGRAM = """
import os, sys, time
from pathlib import Path
from fedha.engine import ray_session

def folder():
    import ray
    return Path(ray._private.worker._global_node.get_temp_dir_path())
"""
_WORKER = """
import ray

@ray.remote(num_cpus=1)
class Worker:
    def imported(self):
        import sys
        return "torch" in sys.modules and "flwr.clientapp" in sys.modules

    def compute(self):
        import torch
        many = torch.ones(6000, 6000)
        while True:
            many @ many

    def wait(self):
        time.sleep(1000)
"""


@contextmanager
def program(text: str, environment: dict[str, str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs `text`, in a process group of its own; it knows no token of this process' Ray."""
    without_token = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM + text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**without_token, **(environment or {})},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(text: str, environment: dict[str, str] | None = None) -> str:
    """What a program prints that ends well and complains of nothing."""
    with program(text, environment) as process:
        output, complaints = process.communicate(timeout=200)
        assert (process.returncode, complaints) == (0, ""), complaints
    return output


def assert_gone(folder: Path, seconds: float) -> None:
    """Nothing of a Ray is left, within so many seconds (a loaded machine is slow, not wrong)."""
    deadline = time.monotonic() + seconds
    while (folder.exists() or leftovers.living(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert leftovers.living(folder) == set()
    assert not folder.exists()


@pytest.mark.slow
def test_a_session_is_kept_says_nothing_changes_nothing_and_ends_when_told() -> None:
    output = run(
        "import signal, time; from fedha.engine import leftovers\n"
        "quiet = {'RAY_USAGE_STATS_ENABLED', 'FLWR_TELEMETRY_ENABLED', 'FLWR_DISABLE_UPDATE_CHECK'}\n"
        "for name in quiet: del os.environ[name]\n"
        "ending = signal.getsignal(signal.SIGTERM)\n"
        "session = ray_session.start(2)\n"
        "assert ray_session.start(2) is session and session.ours, session\n"
        "assert (session.cpus, session.gpus, session.nodes) == (2, 0, 1), session\n"
        + _WORKER
        + "workers = [Worker.remote() for _ in range(2)]\n"
        "assert ray.get([one.imported.remote() for one in workers]) == [True, True]\n"
        "assert signal.getsignal(signal.SIGTERM) is ending\n"
        "assert not {*quiet, leftovers.MARK} & set(os.environ)\n"
        "place = folder()\n"
        "assert len(leftovers.living(place)) >= 4, leftovers.living(place)\n"
        "ray_session.stop()\n"
        "assert not place.exists() and not leftovers.living(place) and not ray.is_initialized()\n"
        "assert ray_session.start(1).cpus == 1\n"
        "print(folder())\n"
    )
    (place,) = output.splitlines()
    assert len(place) < 30
    assert_gone(Path(place), seconds=0)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_and_no_file_is_left_after_a_signal_while_workers_are_busy(ending: signal.Signals) -> None:
    text = (
        "ray_session.start(2)\n" + _WORKER + "workers = [Worker.remote() for _ in range(2)]\n"
        "ray.get([one.imported.remote() for one in workers])\n"
        "calls = [workers[0].compute.remote(), workers[1].wait.remote()]\n"
        "time.sleep(0.3)\nprint(folder(), flush=True)\nray.get(calls)\n"
    )
    with program(text) as process:
        place = Path(process.stdout.readline().strip())
        assert len(leftovers.living(place)) >= 4
        os.killpg(process.pid, ending)
        _, complaints = process.communicate(timeout=60)
    if ending == signal.SIGINT:
        assert "KeyboardInterrupt" in complaints
    else:
        assert (process.returncode, complaints) == (-ending, "")
    assert_gone(place, seconds=15)


@pytest.mark.slow
def test_ctrl_c_while_ray_starts_leaves_nothing() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="f") as usual:
        with program("ray_session.start(2)\n", {"TMPDIR": usual}) as process:
            deadline = time.monotonic() + 60
            while not any(leftovers.living(one) for one in Path(usual).iterdir()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            (place,) = Path(usual).glob("fedha-*")
            os.killpg(process.pid, signal.SIGINT)
            _, complaints = process.communicate(timeout=60)
        assert "KeyboardInterrupt" in complaints, process.returncode
        assert_gone(place, seconds=15)


@pytest.mark.slow
def test_the_callers_own_ray_is_used_and_left_running_unless_it_is_too_small() -> None:
    output = run(
        "from fedha.errors import FedhaError\n"
        "import logging, warnings; warnings.simplefilter('ignore')\nimport ray, tempfile\n"
        "with tempfile.TemporaryDirectory(dir='/tmp', prefix='own-', ignore_cleanup_errors=True) as place:\n"
        "    ray.init(address='local', num_cpus=1, include_dashboard=False, _temp_dir=place, logging_level=50)\n"
        "    session = ray_session.start(1)\n"
        "    assert not session.ours and session.cpus == 1, session\n"
        "    ray_session.stop()\n"
        "    assert ray.is_initialized()\n"
        "    try:\n        ray_session.start(2)\n"
        "    except FedhaError as error:\n        print(error)\n"
        "    assert ray.is_initialized()\n    ray.shutdown()\n"
    )
    assert "a Ray with 1 cpus and 0 gpus, and the run wants 2 and 0; lower engine.workers" in output


@pytest.mark.slow
def test_a_cluster_is_joined_by_its_address_and_left_running_and_closed_to_strangers() -> None:
    host = (
        "ray_session.start(3)\nimport ray\n"
        "print(ray.get_runtime_context().gcs_address, os.environ['RAY_AUTH_TOKEN'], flush=True)\n"
        "time.sleep(300)\n"
    )
    guest = (
        "session = ray_session.start(0, 0, {address!r})\n"
        + _WORKER
        + "assert ray.get(Worker.remote().imported.remote())\n"
        "print(session.cpus, session.ours, session.address)\nray_session.stop()\n"
    )
    with program(host) as process:
        address, token = process.stdout.readline().split()
        known = run(guest.replace("{address!r}", repr(address)), {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token})
        assert known.split() == ["3", "True", address]
        with program(
            "import ray._raylet as raw\n"
            f"raw.GcsClient(address={address!r}).internal_kv_get(b'x', None, timeout=2)\nprint('let in')\n"
        ) as stranger:
            output, complaints = stranger.communicate(timeout=60)
        assert "let in" not in output
        assert "InvalidAuthToken" in complaints
        assert process.poll() is None


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_an_address_where_nobody_answers_is_an_error_at_once(address: str) -> None:
    begun = time.monotonic()
    with pytest.raises(FedhaError, match=re.escape(f"no Ray cluster answers at engine.address {address!r}: ")):
        ray_session.start(0, 0, address)
    assert time.monotonic() - begun < 20


@pytest.mark.slow
def test_what_ray_refuses_is_an_error_with_the_cause_and_leaves_no_folder() -> None:
    output = run(
        "import tempfile; from fedha.errors import FedhaError\n"
        "with tempfile.TemporaryDirectory(dir='/tmp', prefix='f') as place:\n"
        "    tempfile.tempdir = place\n"
        "    try:\n        ray_session.start(-1)\n"
        "    except FedhaError as error:\n        print(error)\n"
        "    print(os.listdir(place))\n"
    )
    error, left = output.splitlines()
    assert error.startswith("Ray did not start with -1 cpus and 0 gpus: ValueError: ")
    assert error.endswith("set engine.name to inline")
    assert left == "[]"


def test_a_guard_ends_only_what_has_the_mark_of_its_folder(tmp_path: Path) -> None:
    def sleeper(mark: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["sleep", "100"], env={**os.environ, leftovers.MARK: mark})

    folder = tmp_path / "ours"
    folder.mkdir()
    ours, others = sleeper(str(folder)), sleeper(f"{folder}2")
    try:
        guard = leftovers.guard(folder)
        assert leftovers.living(folder) == {ours.pid}
        guard.communicate(timeout=30)
        assert ours.wait(timeout=5) == -signal.SIGKILL
        assert others.poll() is None
        assert not folder.exists()
    finally:
        ours.kill()
        others.kill()
        others.wait()
