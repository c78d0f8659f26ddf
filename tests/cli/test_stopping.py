"""A signal is never lost: what is done is saved, whenever it comes, and nothing more is begun."""

import io
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from rich.console import Console

from fedha.cli import launch, stopping
from fedha.cli.exits import EndedError, exit_code
from fedha.errors import StoppedError
from fedha.runs import runfolder
from fedha.runs.folders import planned_runs
from tests.made_runs import FAST, changed


class _Signals(io.StringIO):
    """A terminal that sends this process a signal when a text is written, once."""

    def __init__(self, at: str, number: signal.Signals) -> None:
        super().__init__()
        self.at, self.number = at, number

    def write(self, text: str) -> int:
        if self.at and self.at in text:
            self.at = ""
            signal.raise_signal(self.number)
        return super().write(text)


@pytest.fixture
def noted() -> Iterator[None]:
    """Signals are noted, as in a command."""
    with stopping.noted():
        yield


def _planned(folder: Path, *changes: str) -> launch.Plan:
    return launch.plan_new(launch.find_config("quickstart", changed(FAST, "seed=0", *changes)), folder)[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_the_last_round_and_the_run_goes_on_to_the_same_bits(
    number: signal.Signals, code: int, noted: None, tmp_path: Path
) -> None:
    changes = ("recipe=hgp", "training.rounds=12", "checkpoint.every=50")
    folder, straight = tmp_path / "stopped", tmp_path / "straight"
    console = Console(file=_Signals("round 8/", number))
    with pytest.raises(EndedError) as ended:
        launch.train(_planned(folder, *changes), console, quiet=False, common=folder)
    said = f"stopped after round 8 of 12, which is saved; continue with: fedha resume {folder}"
    assert (str(ended.value), ended.value.code) == (said, code)
    lines = io.StringIO()
    with stopping.noted():
        launch.train(planned_runs(folder), Console(file=lines, width=500), quiet=False, common=folder)
        launch.train(_planned(straight, *changes), Console(file=io.StringIO()), quiet=True, common=straight)
    assert "continued at round 9" in lines.getvalue()
    assert (folder / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


class _Finalizer:
    """Is interrupted while it is being collected, where Python lets no exception out."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_swallows_ends_the_command_all_the_same(noted: None, tmp_path: Path) -> None:
    del (_ := [_Finalizer()])[0]  # nothing is raised here
    assert stopping.asked()
    with pytest.raises(EndedError, match="stopped before erm, seed 0 began; continue with: fedha resume") as ended:
        launch.train(_planned(tmp_path / "run", "recipe=erm"), Console(), quiet=True, common=tmp_path / "run")
    assert ended.value.code == 130
    assert not runfolder.holds_run(tmp_path / "run")


def test_between_two_runs_of_a_command_a_signal_is_seen_too(noted: None, tmp_path: Path) -> None:
    plan = _planned(tmp_path / "run", "recipe=[erm, hgp]")
    console = Console(file=_Signals("final round", signal.SIGTERM))
    with pytest.raises(EndedError, match="stopped before run 2 of 2: hgp, seed 0 began") as ended:
        launch.train(plan, console, quiet=False, common=tmp_path / "run")
    assert ended.value.code == 143
    assert [runfolder.is_finished(place) for _, place in plan] == [True, False]


def test_work_that_looks_is_not_broken_into_the_first_time_but_the_second(noted: None) -> None:
    with stopping.patiently():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StoppedError, match="here"):
            stopping.check("here")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stopping.exit_code() == 143


def test_other_work_is_broken_into_at_once(noted: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert stopping.exit_code() == 143


def test_what_a_process_ignores_stays_ignored_and_handlers_come_back() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for jobs in the background
    other = signal.getsignal(signal.SIGTERM)
    try:
        with stopping.noted():
            signal.raise_signal(signal.SIGINT)
            assert not stopping.asked()
            assert signal.getsignal(signal.SIGTERM) != other
        assert signal.getsignal(signal.SIGTERM) == other
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_command_that_is_stopped_ends_with_the_signals_code(capsys: pytest.CaptureFixture[str]) -> None:
    def command(**_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    assert exit_code(command) == 143
    assert capsys.readouterr().err == "fedha: stopped\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_outside_of_training_ends_with_its_code_and_a_sentence(
    number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def work() -> None:
        signal.raise_signal(number)

    assert exit_code(lambda **settings: app([], **settings)) == code
    assert capsys.readouterr().err == "fedha: stopped\n"
