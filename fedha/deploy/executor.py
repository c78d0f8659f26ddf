"""The server's SuperExec, whose apps start at once: ``python -m fedha.deploy.executor``, as ``flower-superexec``.

Flower starts a process for every message, which imports Flower, torch and fedha before it looks at what it was sent:
seconds of computing, again and again. Here a process that has imported them waits (`fedha.deploy.template`), and the
process of each task is forked from it. What a task leaves behind still ends with its process. A site's is
`fedha.deploy.launcher`.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from logging import WARNING

from flwr.supercore import log
from flwr.supercore.cli import flower_superexec
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, ExecutorType, TaskType
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, SubprocessExecutor

SERVER: Mapping[TaskType, str] = {TaskType.SERVER_APP: "server"}


@dataclass
class ForkingExecutor:
    """One of Flower's executors: starts the apps of runs by forking.

    Attributes:
        forked: What `fedha.deploy.template` runs for a task, by the task's type.
        others: Whether tasks of other types start as Flower starts them; else they are refused. A client's never does:
            its code would be the operator's.
        usual: Flower's own.
    """

    forked: Mapping[TaskType, str] = field(default_factory=lambda: SERVER)
    others: bool = True
    usual: SubprocessExecutor = field(default_factory=SubprocessExecutor)
    _template: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._ready()  # which imports while nobody waits for it

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process of a task."""
        if spec.task_type not in self.forked:
            if self.others and spec.task_type != TaskType.CLIENT_APP:
                return self.usual.launch(spec)
            return LaunchResult.failed(f"fedha starts no {spec.task_type} here; a site runs fedha.deploy.launcher")
        order = {"app": self.forked[spec.task_type], "options": options(spec), "quiet": spec.suppress_output}
        line = json.dumps(order).encode() + b"\n"
        for _ in range(2):  # a template that was killed meanwhile is found out by its pipe
            try:
                pipe = self._ready().stdin
                assert pipe is not None
                pipe.write(line)
                pipe.flush()
                return LaunchResult.accepted()
            except OSError as error:
                log(WARNING, "fedha: the process that apps are forked from has ended (%s); another one starts", error)
                self.close()
        return LaunchResult.failed("the process that apps are forked from ends as soon as it starts")

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], *, insecure: bool = False, root_certificates_path: str | None = None
    ) -> tuple[set[TaskType], set[str]]:
        """All that Flower's own has room for."""
        return self.usual.get_eligible_capacity(
            supported_task_types, insecure=insecure, root_certificates_path=root_certificates_path
        )

    def wait_for_capacity(
        self,
        task_type: TaskType | None = None,
        *,
        fab_hash: str | None = None,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> None:
        """There is always room."""
        self.usual.wait_for_capacity(
            task_type, fab_hash=fab_hash, insecure=insecure, root_certificates_path=root_certificates_path
        )

    def reconcile(self) -> None:
        """See that the template is there before a task waits for it."""
        self._ready()

    def close(self) -> None:
        """End the template; what was forked from it goes on, and ends with the SuperExec as Flower's own would."""
        if self._template is not None:
            with suppress(OSError), self._template:  # closes its pipe, too
                self._template.kill()
            self._template = None
        self.usual.close()

    def _ready(self) -> "subprocess.Popen[bytes]":
        if self._template is None or self._template.poll() is not None:
            if self._template is not None:
                log(WARNING, "fedha: the process that apps are forked from ended with %s", self._template.returncode)
            command = [sys.executable, "-P", "-m", "fedha.deploy.template"]  # nothing of the folder we work in
            self._template = subprocess.Popen(command, stdin=subprocess.PIPE)
        return self._template


def options(spec: ExecutionSpec) -> list[str]:
    """What a task's command gets on its command line."""
    words = [TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type], spec.runtime_api_address, "--token", spec.token]
    if spec.insecure:
        words.append("--insecure")
    elif spec.root_certificates_path is not None:
        words += ["--root-certificates", spec.root_certificates_path]
    if spec.parent_pid is not None:
        words += ["--parent-pid", str(spec.parent_pid)]
    if spec.runtime_dependency_install:
        words.append("--allow-runtime-dependency-installation")
    return words


def run(executor: Callable[[], ForkingExecutor]) -> None:
    """Run a SuperExec with an executor of ours."""
    stock = vars(run_superexec)["get_executor"]

    def chosen(executor_type: ExecutorType, *arguments: object, **options: object) -> object:
        if executor_type == ExecutorType.SUBPROCESS:
            return executor()
        return stock(executor_type, *arguments, **options)

    vars(run_superexec)["get_executor"] = chosen
    flower_superexec()


if __name__ == "__main__":
    run(ForkingExecutor)
