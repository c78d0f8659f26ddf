"""The command line: what it prints, what it leaves behind, and how it ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fedha import config as configs
from fedha.cli.commands import app
from fedha.cli.exits import EndedError, exit_code
from fedha.errors import FedhaError
from fedha.recipes import RECIPES
from fedha.rules.table import AVERAGINGS, RULES
from fedha.runs import folders, runfolder
from fedha.runs.versions import versions
from tests.commands import Command
from tests.disks import full_disk
from tests.made_runs import FAST, changed, write_run


def _python(*arguments: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=120)


def test_help_needs_no_heavy_import_and_nothing_is_sent_home() -> None:
    heavy = "{'torch', 'flwr', 'ray', 'matplotlib', 'sklearn'}"
    program = (
        "import os, sys, fedha.cli.commands, fedha.cli.exits\n"
        "code = fedha.cli.exits.exit_code(lambda **s: fedha.cli.commands.app(['run', '--help'], **s))\n"
        f"print(code, sorted({heavy} & set(sys.modules)))\n"
        "names = 'FLWR_TELEMETRY_ENABLED', 'FLWR_DISABLE_UPDATE_CHECK', 'RAY_USAGE_STATS_ENABLED'\n"
        "print(*[os.environ[name] for name in names])"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "RAY_"))}
    done = _python("-c", program, env=kept)
    assert done.stdout.splitlines()[-2:] == ["0 []", "0 1 0"], done.stderr


@pytest.mark.parametrize("command", ["run", "resume", "report", "recipes", "check"])
def test_help_teaches_with_an_example(fedha: Command, command: str) -> None:
    code, out, _ = fedha(command, "--help")
    assert code == 0
    assert f"fedha {command}" in out.split("Example")[1]


def test_the_terminal_breaks_the_lines_of_descriptions() -> None:
    groups = [app, *(one.typer_instance for one in app.registered_groups)]
    told = [command.help for group in groups for command in group.registered_commands]
    assert len(told) > 25
    assert not [one for one in told if not one or re.search(r"[^\n]\n[^\n]", one)]


def test_the_module_runs_as_a_program() -> None:
    done = _python("-m", "fedha", "version")
    assert done.returncode == 0
    assert dict(line.split(" ", 1) for line in done.stdout.splitlines()) == versions()
    assert set(versions()) == {"fedha", "python", "torch", "flwr", "ray", "numpy"}


def test_check_prints_the_whole_config_and_changes(fedha: Command) -> None:
    code, out, err = fedha("check", "quickstart", "training.rounds=7", "seed=[0, 1]", "recipe=[erm, hgp]")
    assert code == 0
    assert configs.parse(yaml.safe_load(out)).training.rounds == 7
    assert "quickstart is valid: 4 runs of 7 rounds" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "quickstart", "training.rouns=7"), "did you mean 'rounds'?"),
        (("check", "quickstart", "recipe=[hgp, hgp]"), "would both be called hgp-seed0"),
        (("check", "nowhere"), "there is no file nowhere, and fedha ships no config of that name, only"),
        (("check", "some/where.yaml"), "cannot read the config some/where.yaml"),
        (("run", "quickstart", "--engine", "steam"), "engine.name is 'steam'"),
        (("run", "quickstart", "recipe=[hgp, hgp]"), "would both be called hgp-seed0"),
        (("resume", "nowhere"), "there is no folder nowhere"),
        (("report", "."), "there is no run in ."),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(fedha: Command, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = fedha(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("fedha: ")
    assert err.count("\n") == 1
    assert said in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("run",), ("report", ".", "--format", "xml"), ("recipes", "--classes", "0")]
)
def test_a_command_line_that_makes_no_sense_is_code_2(fedha: Command, arguments: tuple[str, ...]) -> None:
    code, _, err = fedha(*arguments)
    assert code == 2
    assert "Usage" in err


def test_recipes_lists_every_row_with_the_model_that_the_bytes_are_for(fedha: Command) -> None:
    code, out, _ = fedha("recipes")
    assert code == 0
    assert all(name in out for name in (*RECIPES, *RULES, *AVERAGINGS))
    assert "16,770 parameters" in out
    markdown = fedha("recipes", "--markdown", "--classes", "10", "--features", "3", "--parameters", "50")[1]
    assert "| erm | nothing | – | 1 | 200 | 200 |" in markdown


def test_a_single_run_is_its_folder(fedha: Command, tmp_path: Path) -> None:
    code, out, err = fedha("run", "quickstart", *FAST, "recipe=hgp", "seed=5")
    assert (code, err) == (0, "")
    folder = tmp_path / "runs" / "quickstart"
    files = {path.name for path in folder.iterdir()} - {".fedha.json"}
    assert files == {"config.yaml", "metrics.jsonl", "results.json", "model.safetensors", "checkpoint", "report.html"}
    assert "hgp, seed 5: 4 rounds in runs/quickstart" in out
    assert out.endswith("Report: runs/quickstart/report.html\n")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_several_runs_get_a_folder_each_a_common_report_and_a_new_name_the_next_time(fedha: Command) -> None:
    arguments = ("run", "quickstart", *FAST, "--quiet")
    code, out, _ = fedha(*arguments, "recipe=[erm, hgp]", "seed=[0, 1]")
    assert code == 0
    assert out.startswith("Accuracy in %, mean ± sample standard deviation over seeds")
    runs = Path("runs/quickstart")
    names = {"erm-seed0", "erm-seed1", "hgp-seed0", "hgp-seed1", "experiment.yaml", "report.html"}
    assert {path.name for path in runs.iterdir()} == names | {".fedha.json"}
    assert all((runs / name / "report.html").is_file() for name in names if "seed" in name)
    before = (runs / "report.html").stat().st_mtime_ns
    assert fedha(*arguments, "recipe=erm", "seed=0")[0] == 0
    assert Path("runs/quickstart-2/results.json").is_file()
    assert (runs / "report.html").stat().st_mtime_ns == before


def test_a_folder_of_ones_own_is_kept_unless_it_may_be_overwritten(fedha: Command) -> None:
    arguments = ("run", "quickstart", *FAST, "recipe=erm", "--quiet", "--out", "mine")
    assert fedha(*arguments, "seed=1")[0] == 0
    code, _, err = fedha(*arguments, "seed=2")
    assert code == 2
    assert "mine already holds a run" in err
    assert json.loads(Path("mine/results.json").read_text())["seed"] == 1
    assert fedha(*arguments, "seed=2", "--overwrite")[0] == 0
    assert json.loads(Path("mine/results.json").read_text())["seed"] == 2
    assert not Path("runs").exists()


def test_a_run_that_the_user_must_mend_leaves_no_empty_folder(fedha: Command) -> None:
    code, _, err = fedha("run", "quickstart", "recipe=erm", "seed=0", "data.name=heart", "data.root=nowhere")
    assert code == 2
    assert err.startswith("fedha: ")
    assert not Path("runs/quickstart").exists()
    assert folders.claim(Path("runs/quickstart")).name == "quickstart"


def test_a_refused_experiment_leaves_nothing_and_overwriting_looks_at_the_data_first(fedha: Command) -> None:
    write_run(Path("old"))
    before = sorted(Path().rglob("*"))
    bad = ("data.name=heart", "data.root=nowhere", "recipe=[erm, hgp]", "seed=0")
    assert fedha("run", "quickstart", *bad, "--out", "new/folder")[0] == 2
    assert fedha("run", "quickstart", *bad)[0] == 2
    assert fedha("run", "quickstart", *bad, "--out", "old", "--overwrite")[0] == 2
    assert sorted(Path().rglob("*")) == before


def test_check_looks_at_the_data_or_says_that_it_did_not(fedha: Command) -> None:
    Path("empty").mkdir()
    code, out, err = fedha("check", "quickstart", "data.name=arrays", "data.root=empty")
    assert (code, out) == (2, "")
    assert "there is no .npz file in" in err
    for arguments, said in (
        (("data.name=arrays", "data.root=empty", "--no-data"), "the data were not looked at"),
        (("data.name=heart",), "the data were not looked at: data.root does not say where heart is"),
        (("data.name=colored_mnist", "data.root=m", "data.download=true"), "the data were not looked at: a run may"),
        ((), "data: colored digits: 1,797 handwritten digits"),
    ):
        code, _, err = fedha("check", "quickstart", *arguments)
        assert code == 0
        assert said in err


def test_the_program_says_its_version_and_offers_completion(fedha: Command) -> None:
    assert fedha("--version")[:2] == (0, f"fedha {versions()['fedha']}\n")
    assert "--install-completion" in fedha("--help")[1]


def test_a_finished_run_goes_on_with_more_rounds_and_nothing_else(fedha: Command) -> None:
    assert fedha("run", "quickstart", *FAST, "recipe=erm", "seed=0", "--quiet", "--out", "run")[0] == 0
    code, _, err = fedha("resume", "run", "training.learning_rate=0.5", "training.rounds=6")
    assert code == 2
    assert "training.learning_rate was 0.01 and is now 0.5" in err
    assert fedha("resume", "run")[1].startswith("Nothing to continue")
    assert fedha("resume", "run", "training.rounds=6", "engine.address=", "--engine", "inline", "--quiet")[0] == 0
    assert [one["round"] for one in runfolder.read_metrics(Path("run"))] == [1, 2, 3, 4, 5, 6]
    assert [one["from_round"] for one in runfolder.read_changes(Path("run"))] == [5]
    assert json.loads(Path("run/results.json").read_text())["rounds"] == 6
    assert fedha("report", "run", "--format", "csv")[0] == 0


def test_an_experiment_goes_on_with_changes_that_its_unbegun_runs_keep(fedha: Command) -> None:
    arguments = ("run", "quickstart", *FAST, "recipe=[erm, hgp]", "seed=0", "--quiet", "--out", "both")
    assert fedha(*arguments)[0] == 0
    shutil.rmtree("both/hgp-seed0")
    for other in ("recipe=[erm, iga]", "recipe=erm", "seed=[0, 1]"):
        assert "leave recipes and seeds" in fedha("resume", "both", other)[2]
    assert fedha("resume", "both", "training.rounds=5", "--quiet")[0] == 0
    assert [len(runfolder.read_metrics(Path("both", name))) for name in ("erm-seed0", "hgp-seed0")] == [5, 5]
    assert configs.load(Path("both/experiment.yaml")).training.rounds == 5


@pytest.mark.parametrize("name", ["report.html", "page.html", "table.csv", "table.tex"])
def test_a_report_is_not_written_over_what_is_none(fedha: Command, name: str) -> None:
    write_run(Path("run"), "erm")
    place = Path("run", name)
    place.write_text("mine")
    code, _, err = fedha("report", "run", *([] if name == "report.html" else ["--output", str(place)]))
    assert code == 2
    assert f"{place} is there already" in err
    assert place.read_text() == "mine"
    place.unlink()
    for _ in range(2):  # what it wrote itself it writes again
        assert fedha("report", "run", *([] if name == "report.html" else ["--output", str(place)]))[0] == 0


def test_exit_codes_tell_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    def ends(error: BaseException | None) -> Callable[..., None]:
        def command(**_: object) -> None:
            if error:
                raise error

        return command

    for error, code, said in (
        (None, 0, ""),
        (FedhaError("x is 3; make it 2"), 2, "fedha: x is 3; make it 2\n"),
        (EndedError("stopped", 130), 130, "fedha: stopped\n"),
        (KeyboardInterrupt(), 130, "fedha: stopped\n"),
        (ValueError("a\nb"), 1, "fedha: ValueError: a b\n"),
    ):
        assert exit_code(ends(error)) == code
        assert capsys.readouterr().err.endswith(said)


def test_report_writes_the_page_into_the_common_folder(fedha: Command) -> None:
    write_run(Path("runs/a"), "erm")
    write_run(Path("runs/b/hgp-seed0"), "hgp")
    write_run(Path("runs/b/hgp-seed1"), "hgp", 1, rounds=3)
    code, out, _ = fedha("report", "runs/a", "runs/b")
    assert code == 0
    assert f"Report: {Path('runs').resolve() / 'report.html'}" in out
    assert "Not finished, left out: runs/b/hgp-seed1" in out
    assert Path("runs/report.html").is_file()
    assert "Report: runs/a/report.html" in fedha("report", "runs/a")[1]
    fedha("report", "runs/a", "--output", "page.html")
    assert "<!doctype html>" in Path("page.html").read_text()


@pytest.mark.parametrize(
    ("form", "ending", "said"),
    [("text", "txt", "erm "), ("markdown", "md", "| erm |"), ("latex", "tex", r"\toprule"), ("csv", "csv", "erm,1,")],
)
def test_a_table_goes_to_the_terminal_or_to_a_file_whose_ending_says_the_format(
    fedha: Command, form: str, ending: str, said: str
) -> None:
    write_run(Path("run"), "erm")
    code, out, _ = fedha("report", "run", "--format", form)
    assert code == 0
    assert said in out
    fedha("report", "run", "--output", f"table.{ending}")
    assert Path(f"table.{ending}").read_text() == out
    assert not Path("run/report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_program_with_its_code_after_saving_and_says_how_to_go_on(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    changes = changed(FAST, "recipe=erm", "seed=0", "training.rounds=1000000", "checkpoint.every=1000000")
    command = [sys.executable, "-m", "fedha", "run", "quickstart", *changes, "--out", str(folder)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    patience = time.monotonic() + 120
    try:
        while not runfolder.read_metrics(folder) and running.poll() is None and time.monotonic() < patience:
            time.sleep(0.1)
        begun = bool(runfolder.read_metrics(folder))
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()  # one that takes no notice would train a million rounds
    assert begun, err
    assert running.returncode == code
    said = rf"fedha: stopped after round (\d+) of 1000000, which is saved; continue with: fedha resume {folder}"
    found = re.fullmatch(said, err.splitlines()[-1])
    assert found is not None, err
    done = len(runfolder.read_metrics(folder))
    assert int(found[1]) - done in (0, 1)  # a round whose evaluation was broken off is saved and gets its line later
    assert (folder / "checkpoint" / "state.safetensors").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "quickstart", *FAST, "recipe=erm", "seed=0", "--out", "new"),
        ("resume", "run", "training.rounds=20"),
        ("report", "run", "--output", "new.html"),
        ("report", "run", "--output", "new.csv"),
        ("audit", "run", "--attacks", "labels", "--shadows", "0"),
        ("study", "privacy", "quickstart", *FAST, "recipe=erm", "seed=[0, 1]", "--noise", "none", "--out", "new"),
        ("export", "quickstart", "new"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_disk_that_is_full_is_a_sentence_and_leaves_nothing_new(arguments: tuple[str, ...], fedha: Command) -> None:
    write_run(Path("run"), "erm")
    before = {path: path.read_bytes() if path.is_file() else None for path in Path.cwd().rglob("*")}
    with full_disk():
        code, _, err = fedha(*arguments, *(["-q"] if arguments[0] in ("run", "resume", "audit", "study") else []))
    assert code == 2, err
    assert err.startswith("fedha: cannot "), err
    assert "File too large" in err
    assert err.count("\n") == 1
    assert {path: path.read_bytes() if path.is_file() else None for path in Path.cwd().rglob("*")} == before
