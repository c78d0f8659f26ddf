"""Apps are forked from a process that waits: the right command, options, silence and end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResultStatus

from fedha.deploy import launcher
from fedha.deploy.executor import ForkingExecutor, options

NOBODY = "127.0.0.1:9"


def spec(**changes: object) -> ExecutionSpec:
    told = {"task_type": TaskType.CLIENT_APP, "runtime_api_address": NOBODY, "token": "secret-token", "insecure": True}
    told |= {"root_certificates_path": None, "runtime_dependency_install": False, "parent_pid": os.getpid()}
    return ExecutionSpec(**(told | {"suppress_output": False, "task_id": 1} | changes))  # type: ignore[arg-type]


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def executor() -> Iterator[ForkingExecutor]:
    made = launcher.executor()
    yield made
    template = made._ready().pid
    forked = children(template)
    made.close()
    for pid in forked:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({}, ["--insecure"]),
        ({"insecure": False, "root_certificates_path": "/ca.crt"}, ["--root-certificates", "/ca.crt"]),
        ({"runtime_dependency_install": True}, ["--insecure", "--allow-runtime-dependency-installation"]),
        ({"parent_pid": None}, ["--insecure"]),
    ],
)
def test_a_task_gets_the_options_that_flowers_own_executor_gives(
    changes: dict[str, object], more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: seen.append(words))
    from flwr.supercore.superexec.executor import SubprocessExecutor

    SubprocessExecutor().launch(spec(**changes))
    assert seen == [["flwr-clientapp", *options(spec(**changes))]]
    assert set(more) <= set(seen[0])


class Pipe:
    """What would be the template's input."""

    def __init__(self) -> None:
        self.stdin, self.orders = self, list[dict[str, object]]()

    def write(self, line: bytes) -> None:
        self.orders.append(json.loads(line))

    def flush(self) -> None:
        """Nothing is held back."""


def started(made: Callable[[], ForkingExecutor], kind: TaskType, patch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """What an executor does with a task: how it ends, what it has forked, and what it starts as Flower does."""
    pipe, flowers = Pipe(), list[list[str]]()
    patch.setattr(ForkingExecutor, "_ready", lambda self: pipe)
    patch.setattr(subprocess, "Popen", lambda words, **_: flowers.append(words))
    status = made().launch(spec(task_type=kind)).status
    return status, [one["app"] for one in pipe.orders], [words[0] for words in flowers]


@pytest.mark.parametrize("kind", TaskType)
def test_a_site_starts_its_own_app_or_nothing_whatever_it_is_handed(
    kind: TaskType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server makes a run one of an agent by what its bundle says; Flower would start it at the sites."""
    found = started(launcher.executor, kind, monkeypatch)
    if kind in (TaskType.CLIENT_APP, TaskType.AGENT_APP):
        assert found == (LaunchResultStatus.ACCEPTED, ["site"], [])
    else:
        assert found == (LaunchResultStatus.FAILED, [], [])


@pytest.mark.parametrize("kind", TaskType)
def test_a_server_starts_no_client(kind: TaskType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it was started at a site, as an older compose file does."""
    found = started(ForkingExecutor, kind, monkeypatch)
    wanted = {
        TaskType.CLIENT_APP: (LaunchResultStatus.FAILED, [], []),
        TaskType.SERVER_APP: (LaunchResultStatus.ACCEPTED, ["server"], []),
    }
    assert found == wanted.get(kind, (LaunchResultStatus.ACCEPTED, [], [str(kind)]))


@pytest.mark.slow
def test_an_app_is_forked_and_its_token_stands_on_no_command_line(executor: ForkingExecutor) -> None:
    template = executor._ready().pid
    assert executor.launch(spec()).status == LaunchResultStatus.ACCEPTED
    until(lambda: children(template))
    (app,) = children(template)
    assert b"secret-token" not in Path(f"/proc/{app}/cmdline").read_bytes()
    os.kill(app, signal.SIGKILL)
    until(lambda: not children(template))  # nobody has to wait for it


@pytest.mark.slow
def test_a_task_imports_nothing_from_the_folder_that_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """It may be a folder of data, in which others write."""
    for name in ("fedha", "numpy", "json", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    executor = request.getfixturevalue("executor")
    assert executor.launch(spec()).status == LaunchResultStatus.ACCEPTED
    until(lambda: children(executor._ready().pid))
    assert not (tmp_path / "mark").exists()


@pytest.mark.slow
def test_a_template_that_was_killed_is_made_anew(executor: ForkingExecutor) -> None:
    first = executor._ready()
    first.kill()
    first.wait()
    assert executor.launch(spec()).status == LaunchResultStatus.ACCEPTED
    second = executor._ready().pid
    assert second != first.pid
    until(lambda: children(second))


@pytest.mark.slow
def test_apps_end_when_the_superexec_ends() -> None:
    program = (
        "import os, sys\n"
        "from tests.deploy.test_executor import spec\n"
        "from fedha.deploy.launcher import executor\n"
        "made = executor()\n"
        "made.launch(spec())\n"
        "print(made._ready().pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        template = int(process.stdout.readline())
        until(lambda: children(template))
        (app,) = children(template)
        process.kill()
    until(lambda: not Path(f"/proc/{template}").exists())
    until(lambda: not Path(f"/proc/{app}").exists() or "Z" in Path(f"/proc/{app}/stat").read_text().split()[2])
