"""Sweeps from the command line: each run once, nothing lost, more added later, every refusal a sentence."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from fedha.cli import stopping
from fedha.config import Config, read_content
from fedha.errors import FedhaError
from fedha.runs import own_files
from fedha.runs.listener import Silent
from fedha.sweep.jobs import Job, Task, make_jobs
from fedha.sweep.space import Space, expand, read_space
from fedha.sweep.store import entries, open_sweep
from fedha.sweep.work import BUSY, DONE, Worker, here, in_order
from tests.commands import Command
from tests.sweep.made import JOBS, finished, opened, sweep, whole


def test_every_run_is_done_once_and_the_tables_show_them(fedha: Command) -> None:
    code, out, err = sweep(fedha, "-q")
    assert (code, err) == (0, "")
    assert len(finished()) == JOBS
    stamps = {path: path.stat().st_mtime_ns for path in finished()}
    for part in ("training-domain validation", "oracle, last round", "worst domain", "Minus erm", "Cost of a run"):
        assert part in out
    code, again, _ = sweep(fedha, "-q")
    assert (code, again) == (0, out)
    assert {path: path.stat().st_mtime_ns for path in finished()} == stamps
    code, table, _ = fedha("table", "s")
    assert (code, table) == (0, out)


def test_seeds_values_recipes_and_targets_can_be_added(fedha: Command) -> None:
    assert sweep(fedha, "-q", "data.target=[a]", "recipe=erm", "seed=0")[0] == 0
    first = {path: path.read_bytes() for path in finished()}
    assert len(first) == 1
    assert sweep(fedha, "-q", "seed=[0, 1, 2]")[0] == 0
    assert len(finished()) == 3 * 2 * 3
    assert all(path.read_bytes() == content for path, content in first.items())


def test_draws_can_be_added_and_come_from_the_config_or_the_command(fedha: Command) -> None:
    rate = "training.learning_rate={log_uniform: [-3, -1]}"
    assert sweep(fedha, "-q", rate, "recipe=erm", "data.target=a", "sweep.draws=2")[0] == 0
    assert len(finished()) == 4
    assert sweep(fedha, "-q", rate, "recipe=erm", "data.target=a", "--draws", "3")[0] == 0
    assert len(finished()) == 6


def test_another_config_in_the_same_folder_is_refused_and_so_is_somebodys_folder(fedha: Command) -> None:
    assert sweep(fedha, "-q", "recipe=erm", "seed=0")[0] == 0
    code, _, err = sweep(fedha, "training.rounds=3")
    assert code == 2
    assert "training.rounds was '2' and is '3'" in err
    code, _, err = sweep(fedha, "training.rounds=[2, 3]")
    assert code == 2
    assert "another config" in err
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("words")
    code, _, err = fedha("sweep", "c.yaml", "--out", "mine")
    assert code == 2
    assert "holds no sweep" in err
    assert [one.name for one in Path("mine").iterdir()] == ["thesis.txt"]


def test_one_jobs_failure_does_not_stop_the_rest_and_is_tried_again(fedha: Command) -> None:
    code, out, _ = sweep(fedha, "-q", "recipe=[erm, {name: erm, weight: -1}]", "seed=0")
    assert code == 0
    assert "2 failed: recipe" in out
    assert "weight is -1" in out
    shutil.copy("d/a.npz", "kept.npz")
    Path("d/a.npz").write_bytes(b"broken")
    code, out, _ = sweep(fedha, "recipe=[erm, {name: erm, weight: -1}]", "seed=[0, 1]")
    assert code == 0
    assert "a.npz" in out
    shutil.copy("kept.npz", "d/a.npz")
    assert sweep(fedha, "-q", "recipe=[erm, {name: erm, weight: -1}]", "seed=[0, 1]")[0] == 0
    assert len(finished()) == 4
    assert "a.npz" not in fedha("table", "s")[1]


def test_where_every_job_fails_the_sweep_does(fedha: Command) -> None:
    opened("s")
    for one in Path("d").iterdir():
        one.write_bytes(b"broken")
    code, _, err = sweep(fedha, "-q")
    assert code == 2
    assert "no run of this sweep ended" in err
    code, _, err = fedha("table", "s")
    assert code in (0, 2)


def test_a_stopped_sweep_goes_on_to_the_table_that_it_would_have_had(
    fedha: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole, _ = fedha("sweep", "c.yaml", "--out", "whole", "--jobs", "1", "-q")
    looks: list[int] = []

    def stops() -> bool:
        looks.append(1)
        return len(looks) > 40  # a run looks several times a round

    monkeypatch.setattr(stopping, "asked", stops)
    for _ in range(60):
        looks.clear()
        code, out, err = sweep(fedha, "-q")
        if code == 0:
            break
        assert "continue with: fedha sweep c.yaml --out s" in err
    assert code == 0
    same = [line for line in whole.splitlines() if "%" in line or "±" in line]
    assert same
    assert [line for line in out.splitlines() if "%" in line or "±" in line] == same
    for path in finished("whole"):
        other = Path("s") / path.relative_to("whole")
        kept = json.loads(path.read_bytes())["target"]
        assert json.loads(other.read_bytes())["target"] == kept


@pytest.mark.usefixtures("fedha")
def test_workers_that_share_a_folder_do_no_job_twice_and_lose_none() -> None:
    store, jobs = opened()
    states: list[str] = []

    def work(place: int) -> None:
        states.extend(one.state for one in here(Worker(store), whole(in_order(jobs, place, 3))) if one is not None)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert states.count(DONE) >= JOBS
    assert len(finished()) == JOBS
    assert all(store.finished(one.name) for one in jobs)


@pytest.mark.usefixtures("fedha")
def test_workers_that_begin_at_once_make_one_sweep_with_everybodys_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    content = read_content(Path("c.yaml"), ["recipe=erm", "data.target=a"])
    spaces = [read_space({**content, "seed": seed}, draws=None) for seed in range(4)]
    planned = [(space, make_jobs(list(expand(space, None)))) for space in spaces]
    claim = own_files.claim

    def slow(folder: Path, *names: str) -> None:
        claim(folder, *names)
        threading.Event().wait(0.02)  # another worker has time to see what is half made

    monkeypatch.setattr(own_files, "claim", slow)
    faults: list[Exception] = []

    def begin(space: Space, jobs: list[Job]) -> None:
        try:
            open_sweep(Path("s"), space, jobs).failed(jobs[0].name, "no luck")
        except FedhaError as error:
            faults.append(error)

    threads = [threading.Thread(target=begin, args=one) for one in planned]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not faults
    names = {job.name for _, jobs in planned for job in jobs}
    assert {one.name for one in entries(Path("s"))} == names
    assert {f"{name}.json" for name in names} <= own_files.owned(Path("s/jobs/failed"))


@pytest.mark.usefixtures("fedha")
def test_a_sweep_whose_maker_was_killed_before_the_list_is_made_again() -> None:
    opened()
    Path("s/sweep.json").unlink()
    store, jobs = opened()
    assert {one.name for one in entries(store.folder)} == {one.name for one in jobs}


@pytest.mark.usefixtures("fedha")
def test_a_claimed_job_is_anothers_and_free_when_its_worker_is_gone() -> None:
    store, jobs = opened()
    with store.claimed(jobs[0].name) as mine:
        assert mine
        assert Worker(store).work(Task(jobs[0])).state == BUSY
    assert Worker(store).work(Task(jobs[0])).state == DONE


@pytest.mark.usefixtures("fedha")
def test_a_summary_that_is_missing_or_damaged_is_made_again() -> None:
    store, jobs = opened()
    found = Worker(store).work(Task(jobs[0])).found
    path = store.run_folder(jobs[0].name) / "summary.json"
    for content in (b"{", b"[]", b'{"form": 99}', None):
        path.unlink() if content is None else path.write_bytes(content)
        from fedha.sweep.store import summaries

        assert summaries(store, entries(Path("s"))) == {jobs[0].name: found}


@pytest.mark.usefixtures("fedha")
def test_a_damaged_list_is_a_sentence_and_runs_stay() -> None:
    store, jobs = opened()
    Worker(store).work(Task(jobs[0]))
    for content in (b"{", b"[]", b'{"jobs": 3}', b'{"form": 99, "jobs": []}', b'{"form": 1, "jobs": [{"x": 1}]}'):
        (Path("s") / "sweep.json").write_bytes(content)
        with pytest.raises(FedhaError, match=r"sweep\.json"):
            entries(Path("s"))
    assert store.finished(jobs[0].name)


def test_a_dry_run_trains_the_first_run_alone_and_says_what_all_cost(fedha: Command) -> None:
    code, out, _ = sweep(fedha, "--dry-run")
    assert code == 0
    assert "no part of what a run takes" in out
    assert f"{JOBS} runs, {JOBS - 1} of them to do" in out
    assert len(finished()) == 1
    assert sweep(fedha, "--dry-run", "-q")[0] == 0
    assert len(finished()) == 1


class Told(Silent):
    """A tracker that writes down what it hears, and fails at the last target."""

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        if config.data.target == "b":
            raise OSError("no space left")
        with Path("told").open("a") as file:
            file.write(f"{folder.name}\n")


def test_trackers_hear_of_every_run_and_one_that_fails_is_named(fedha: Command) -> None:
    few = ("seed=0", "recipe=[erm, coral]", "--log", "tests.sweep.test_sweep:Told")
    code, out, err = sweep(fedha, *few)
    assert code == 0, err
    names = [one.parent.name for one in finished()]
    assert sorted(Path("told").read_text().split()) == [one for one in names if "-a-" in one]
    assert out.count("hears no more of this run: OSError: no space left") == 2
    code, _, err = sweep(fedha, "seed=[0, 1]", "--log", "tensorbord")
    assert (code, "did you mean 'tensorboard'?" in err, len(finished())) == (2, True, 4)


def test_a_slurm_script_shares_the_sweep_out(fedha: Command) -> None:
    code, out, _ = sweep(fedha, "recipe=[erm, coral]", "--slurm", "8")
    assert code == 0
    assert "#SBATCH --array=1-8" in out
    assert "fedha sweep c.yaml 'recipe=[erm, coral]' --out s --quiet --worker \"$SLURM_ARRAY_TASK_ID/8\"" in out
    assert not Path("s").exists()
    assert sweep(fedha, "training.rounds=0", "--slurm", "8")[:2] == (2, "")
    assert sweep(fedha, "recipe=erm", "-q", "--worker", "2/8")[0] == 0
    assert len(finished()) == 4


@pytest.mark.parametrize("given", ["0/2", "3/2", "1", "a/b", "1/", "/2", "-1/2"])
def test_workers_that_are_none(fedha: Command, given: str) -> None:
    code, _, err = sweep(fedha, f"--worker={given}")
    assert code == 2
    assert "such as 1/4" in err


def test_tables_go_to_files_but_not_over_somebodys(fedha: Command) -> None:
    assert sweep(fedha, "-q", "recipe=erm", "seed=0")[0] == 0
    assert fedha("table", "s", "-o", "t.tex")[0] == 0
    assert "\\toprule" in Path("t.tex").read_text()
    assert fedha("table", "s", "-o", "t.tex")[0] == 0
    Path("mine.md").write_text("mine")
    code, _, err = fedha("table", "s", "-o", "mine.md")
    assert code == 2
    assert "is no such table" in err
    code, _, err = fedha("table", "s", "--rule", "oracel")
    assert code == 2
    assert "did you mean 'oracle'" in err
    assert fedha("table", "d")[0] == 2


def test_tables_of_sweeps_that_differ_say_in_what(fedha: Command) -> None:
    few = ("-q", "recipe=erm", "seed=0", "data.target=a")
    assert sweep(fedha, *few)[0] == 0
    assert fedha("sweep", "c.yaml", "--out", "t", "--jobs", "1", *few, "training.rounds=3")[0] == 0
    assert "differ in" not in fedha("table", "s")[1]
    assert "These sweeps differ in training.rounds; runs are chosen among all of them." in fedha("table", "s", "t")[1]
    code, out, _ = fedha("table", "s", "t", "--rows", "training.rounds", "--format", "csv")
    assert code == 0
    assert "erm," in out
    assert '"erm, training.rounds=3",' in out  # a row, and its difference to the other
    assert "differ in" not in out
    code, _, err = fedha("table", "s", "--rows", "training.round")
    assert (code, "did you mean 'training.rounds'?" in err) == (2, True)


def test_what_sweeps_have_otherwise_of_the_data_has_a_baseline_of_its_own(fedha: Command) -> None:
    few = ("-q", "recipe=[erm, hgp]", "seed=0", "data.target=a")
    assert sweep(fedha, *few, "data.held_out=[0.2, 0.3]")[0] == 0
    assert fedha("sweep", "c.yaml", "--out", "t", "--jobs", "1", *few, "data.held_out=0.4")[0] == 0
    code, out, _ = fedha("table", "s", "t", "--rows", "data.held_out", "--rule", "training_domain_validation")
    assert code == 0
    found, compared = out.partition("Minus erm")[::2]
    for value in ("0.2", "0.3", "0.4"):
        assert f"erm (data.held_out={value}) " in found
        assert f"hgp (data.held_out={value}) " in compared
    code, _, err = fedha("table", "s", "t", "--rows", "data.held_outs")
    assert (code, "did you mean 'data.held_out'?" in err, " varied" in err) == (2, True, False)


def test_rows_of_a_key_that_the_baseline_does_not_have_are_held_against_it(fedha: Command) -> None:
    assert sweep(fedha, "-q", "recipe=[{name: hgp, weight: [0.1, 1]}, erm]", "seed=0", "data.target=a")[0] == 0
    code, out, _ = fedha("table", "s", "--rows", "recipe.weight", "--rule", "training_domain_validation")
    assert code == 0
    assert "A row that does not say it has recipe.weight=default." in out
    compared = out.partition("Minus erm")[2]
    assert "hgp, recipe.weight=0.1 " in compared
    assert "hgp, recipe.weight=1 " in compared


def test_the_last_round_is_tabled_where_sources_hold_nothing_out(fedha: Command) -> None:
    for name in "abc":
        np.savez(f"d/{name}.npz", inputs=np.eye(2, 3, dtype="f4"), labels=np.arange(2))  # nothing to hold out of two
    code, out, _ = sweep(fedha, "-q", "recipe=erm", "seed=0", "data.target=a")
    assert code == 0
    assert "last round; the run by training-domain validation" in out


@pytest.mark.usefixtures("fedha")
def test_a_worker_takes_the_job_of_another_that_is_gone() -> None:
    store, jobs = opened()
    held, waits = threading.Event(), threading.Event()

    def other() -> None:
        with store.claimed(jobs[0].name):
            held.set()
            waits.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(60)
    states = []
    for outcome in here(Worker(store), whole(jobs[:2])):
        states.append(None if outcome is None else outcome.state)
        if outcome is None:
            waits.set()  # it looks again, and finds it free
    thread.join()
    assert states == [None, DONE, DONE]


def test_other_data_under_the_same_names_are_refused(fedha: Command) -> None:
    assert sweep(fedha, "-q", "recipe=erm", "seed=0")[0] == 0
    shutil.copytree("d", "e")
    assert sweep(fedha, "-q", "recipe=erm", "seed=0", "data.root=e")[0] == 0  # the same ones elsewhere
    with np.load("e/c.npz") as held:
        np.savez("e/c.npz", inputs=held["inputs"] + 1, labels=held["labels"])
    code, _, err = sweep(fedha, "-q", "recipe=[erm, coral]", "seed=0", "data.root=e")
    assert code == 2
    assert "the data are not those" in err
    assert len(finished()) == 2


@pytest.mark.usefixtures("fedha")
def test_a_runs_name_outlives_new_keys_of_the_schema() -> None:
    few = ("recipe=erm", "data.target=a", "seed=0")
    (job,) = opened("s", *few)[1]
    assert job.name == "erm-a-seed0-54158447c465", "a new key? what it is when nobody says it goes into jobs._LATER"
    own = "recipe={name: erm, terms: [{statistic: gradient}]}"
    others = ((*few, "data.id_test=0.5"), (*few, "evaluation.diagnose_every=1"), (own, *few[1:]))
    for place, other in enumerate(others):
        assert opened(f"s{place}", *other)[1][0].name != job.name
