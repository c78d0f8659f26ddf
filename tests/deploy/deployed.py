"""`fedha deploy run` as a user starts it, and the same runs in one process to compare with."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from fedha import config as configs
from fedha.run import execute
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests import forked
from tests.deploy.running import Running
from tests.killed_runs import without_time

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "deployment.yaml"
ERM = ("recipe=erm", "evaluation.every=100")
SECURE = ("recipe=fishr", "federation.schedule=piggyback", "privacy.secure_aggregation=true", "training.rounds=1")
NOISY = ("privacy.protect=examples", "privacy.noise_multiplier=4.0")
# A site holds out by a key of its own, so its examples are not as many as in a simulation: delta must not follow them.
PRIVATE = (
    *("recipe=exact_diagonal", "training.rounds=2", "evaluation.every=100", *NOISY),
    *("privacy.evaluation_noise=5.0", "privacy.delta=1e-4"),
)


class Deployed:
    """`fedha deploy run` in a process of its own: forked, or an interpreter that runs a `program` with its words."""

    def __init__(
        self,
        federation: Running,
        name: str,
        *overrides: str,
        command: str = "run",
        config: Path = CONFIG,
        program: str = "",
    ) -> None:
        self.folder = federation.runs / name
        what = [str(config), *overrides, "--out", str(self.folder)] if command == "run" else [str(self.folder)]
        to = ["--to", str(federation.init_folder.folder), "--address", federation.address]
        words = ["deploy", command, *what, *to]
        self.process: subprocess.Popen[str] | forked.Program
        if program:
            self.process = subprocess.Popen(
                [sys.executable, program, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        else:
            self.process = forked.start(*words)

    @property
    def rounds(self) -> int:
        log = self.folder / runfolder.METRICS
        return len(log.read_text().splitlines()) if log.exists() else 0

    def end(self, seconds: float = 600) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=seconds)
        assert self.process.returncode is not None, said
        return self.process.returncode, said

    def events(self) -> list[dict[str, str]]:
        lines = (self.folder / runfolder.METRICS).read_text().splitlines()
        return [event for line in lines for event in json.loads(line).get("events", [])]


@dataclass(frozen=True)
class Simulated:
    """Runs of `CONFIG` in this process, each trained when it is first asked for.

    Attributes:
        place: Where they are written.
        runs: Their folders, by what was overridden.
    """

    place: Path
    runs: dict[tuple[str, ...], Path] = field(default_factory=dict)

    def run(self, *overrides: str) -> Path:
        """The folder of a run."""
        if overrides not in self.runs:
            folder = self.place / str(len(self.runs))
            execute(configs.load(CONFIG, [*overrides, "engine.name=inline"]), folder, Silent())
            self.runs[overrides] = folder
        return self.runs[overrides]


def assert_same_run(run: Path, simulated: Path, *, events: bool = False) -> None:
    assert (run / runfolder.MODEL).read_bytes() == (simulated / runfolder.MODEL).read_bytes()
    one, other = without_time(run / runfolder.METRICS), without_time(simulated / runfolder.METRICS)
    if not events:
        sent, simply = (sum(record["bytes_down"] for record in records) for records in (one, other))
        assert sent < simply  # clients keep the model: it is sent once, not once an exchange
    for record in (*one, *other):
        for key in ("bytes_down", *(("events", "bytes_up") if events else ())):  # who is asked twice costs more
            record.pop(key, None)
    assert one == other
