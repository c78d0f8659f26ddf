"""What the terminal shows says where a run is, in few lines, and takes whatever a round brings."""

import io
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from fedha.cli.display import Display, LineDisplay, LiveDisplay, QuietDisplay, choose
from fedha.progress import byte_count, duration
from fedha.runs.listener import Listener
from fedha.runs.wording import RoundText, percents, result_text, run_title, target_title
from tests import made_runs


def _console(terminal: bool, width: int = 100) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=width), out


def _show(display: Display, rounds: int = 20, first: int = 1, recipe: str = "hgp") -> None:
    listener: Listener = display
    config = made_runs.config(training={"rounds": rounds}, recipe={"name": recipe, "align": {"gradient": 1.0}})
    listener.note("engine inline: because")
    listener.started(config, Path("runs/[made]"), first)
    for number in range(first, rounds + 1):
        listener.round_done(made_runs.record(number))
    listener.finished(made_runs.results(recipe))


@pytest.mark.parametrize("rounds", [1, 3, 10, 15, 99, 1000])
def test_lines_are_a_start_an_end_and_about_ten_between(rounds: int) -> None:
    console, out = _console(terminal=False)
    _show(LineDisplay(console), rounds)
    note, start, *between, end = out.getvalue().splitlines()
    assert note == "engine inline: because"
    assert start == f"hgp, seed 0: {rounds} rounds in runs/[made]"
    assert len(between) <= 10
    assert len(between) >= min(rounds - 1, 4)
    assert all(f"/{rounds}  loss " in line and line.endswith(" left") for line in between)
    assert end.strip().startswith("final round: sources 80.0 % 70.0 % held out, target faraway 60.0 %")


def test_a_run_may_go_on_with_the_evaluation_of_the_round_that_it_was_stopped_after() -> None:
    console, out = _console(terminal=False)
    with choose(console, 1) as display:
        display.started(made_runs.config(training={"rounds": 20}), Path("runs/made"), 11)
        display.round_done(made_runs.record(10))
    assert "  round 10/20  loss " in out.getvalue()


def test_runs_in_a_row_are_counted_and_a_note_is_said_once() -> None:
    console, out = _console(terminal=False)
    with choose(console, 2) as display:
        assert isinstance(display, LineDisplay)
        _show(display, recipe="erm")
        _show(display, first=11)
    text = out.getvalue()
    assert "run 1 of 2: erm, seed 0: 20 rounds" in text
    assert "run 2 of 2: hgp, seed 0: 20 rounds in runs/[made], continued at round 11" in text
    assert text.count("engine inline") == 1


def test_a_terminal_gets_a_bar_that_leaves_only_results() -> None:
    console, out = _console(terminal=True)
    with choose(console, 2) as display:
        assert isinstance(display, LiveDisplay)
        _show(display)
        _show(display, recipe="[red]")
    text = out.getvalue()
    assert "20/20" in text
    assert "run 2 of 2: [red], seed 0: final round:" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 2  # the cursor is hidden while a bar moves, then back


def test_the_terminal_is_given_back_when_a_run_breaks() -> None:
    console, out = _console(terminal=True)
    display = LiveDisplay(console)
    with suppress(KeyboardInterrupt), display:
        display.started(made_runs.config(), Path("runs/made"), 1)
        raise KeyboardInterrupt
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")  # the cursor is back


def test_quiet_says_nothing() -> None:
    console, out = _console(terminal=True)
    with choose(console, 3, quiet=True) as display:
        assert isinstance(display, QuietDisplay)
        _show(display)
    assert out.getvalue() == ""


def test_a_round_keeps_the_last_evaluation_and_says_what_it_has() -> None:
    text = RoundText()
    first = text.update(made_runs.record(1))
    assert first == "loss 0.639  penalty 0.00915  sources 56.1 % 55.4 %"  # the training parts: nothing else yet
    evaluated = text.update(made_runs.record(5))
    assert evaluated.endswith("sources 67.0 % 61.3 %  target 55.7 %")
    assert text.update(made_runs.record(6)).endswith("sources 67.0 % 61.3 %  target 55.7 %")


def test_a_round_may_lack_anything() -> None:
    assert RoundText().update({"round": 1, "loss": None}) == "loss not finite"
    bare = {"round": 1, "loss": 0.5, "penalty": {"gradient": None}, "held_out": {"a": {"examples": 0}}, "target": {}}
    assert RoundText().update(bare) == "loss 0.5  penalty 0"


def test_a_result_without_held_out_parts_names_the_targets() -> None:
    results = made_runs.results(sources={"a": {"examples": 0}}, target={"target": made_runs.part(0.25)}, seconds=61.0)
    assert result_text(results) == "final round: target 25.0 %; 1 min 01 s"


def test_words_for_numbers() -> None:
    assert run_title(made_runs.config("erm", 4)) == "erm, seed 4"
    assert run_title(made_runs.config("erm", 4), 3, 10) == "run 3 of 10: erm, seed 4"
    assert [duration(s) for s in (0.04, 59.94, 59.96, 200, 7500)] == [
        "0.0 s",
        "59.9 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
    assert [byte_count(n) for n in (812, 12_300, 999_949, 999_960, 4.5e6, 1.2e9, 3e12)] == [
        "812 B", "12.3 kB", "999.9 kB", "1.0 MB", "4.5 MB", "1.2 GB", "3000.0 GB",
    ]  # fmt: skip
    assert percents([0.5, None, 0.123]) == "50.0 % 12.3 %"
    assert [target_title(name) for name in ("va", "target")] == ["target va", "target"]
