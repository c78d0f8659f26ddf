"""Successive halving: fewer rounds, the same bits for what goes on, whoever does it and however often it is stopped."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fedha.cli import stopping
from fedha.errors import FedhaError
from fedha.runs import runfolder
from fedha.runs.selection import scores
from fedha.sweep import rungs
from fedha.sweep.halving import Plan, check, rung_round, whole_runs
from fedha.sweep.jobs import Job, Task
from fedha.sweep.store import Store
from fedha.sweep.work import DONE, REACHED, STOPPED, Worker, here, in_order
from tests.commands import Command
from tests.sweep.made import finished, opened, sweep, whole

RATES = ("recipe=erm", "seed=0", "data.target=a", "training.rounds=9", "data.held_out=0.4")
DRAWN = (*RATES, "training.learning_rate={log_uniform: [-4, 1]}")


def _rounds(store: Store, jobs: Sequence[Job]) -> list[int]:
    """How many rounds each job has done."""
    return [len(runfolder.read_metrics(store.run_folder(one.name))) for one in jobs]


def _best(store: Store, jobs: Sequence[Job], number: int, count: int) -> set[str]:
    """The names of the jobs that are best up to a round by the sources, from whole runs."""

    def score(job: Job) -> float:
        records = runfolder.read_metrics(store.run_folder(job.name))
        return max(scores([one for one in records if one["round"] <= number])["training_domain_validation"].values())

    return {one.name for one in sorted(jobs, key=lambda one: (-score(one), one.name))[:count]}


@pytest.mark.usefixtures("fedha")
def test_the_better_ones_by_the_sources_go_on_to_the_bits_of_whole_runs() -> None:
    whole_store, jobs = opened("whole", *DRAWN, draws=9)
    assert all(one.state == DONE for one in here(Worker(whole_store), whole(jobs)) if one)
    store, jobs = opened("s", *DRAWN, draws=9)
    states = [one.state for one in here(Worker(store), Plan(store, jobs, 3).batches()) if one]
    assert states == [REACHED] * 12 + [DONE]
    assert sorted(_rounds(store, jobs)) == [1] * 6 + [3] * 2 + [9]
    second = _best(whole_store, jobs, 1, 3)
    assert {one.name for one, rounds in zip(jobs, _rounds(store, jobs), strict=True) if rounds > 1} == second
    last = _best(whole_store, [one for one in jobs if one.name in second], 3, 1)
    (kept,) = (one for one in jobs if store.finished(one.name))
    assert {kept.name} == last
    for name in (runfolder.MODEL, runfolder.METRICS):
        ours, theirs = (one.run_folder(kept.name) / name for one in (store, whole_store))
        if name == runfolder.MODEL:
            assert ours.read_bytes() == theirs.read_bytes()
        assert len(ours.read_bytes().splitlines()) == len(theirs.read_bytes().splitlines())
    assert not next(iter(Plan(store, jobs, 3).batches()))
    assert Plan(store, jobs, 3).left() == 0


@pytest.mark.usefixtures("fedha")
def test_several_workers_and_any_order_keep_the_same_ones() -> None:
    found = []
    for folder, workers in (("one", 1), ("three", 3)):
        store, jobs = opened(folder, *DRAWN, draws=9)
        plans = [Plan(store, in_order(jobs, place, workers), 3) for place in range(workers)]
        busy = [here(Worker(store), one.batches()) for one in plans]
        while busy:  # each does a job, then the next one
            busy = [one for one in busy if next(one, STOPPED) != STOPPED]
        found.append([sorted(one.name for one in jobs if store.finished(one.name)), _rounds(store, jobs)])
    assert found[0] == found[1]


def test_it_goes_on_where_it_was_stopped_and_says_what_it_left_out(
    fedha: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (*DRAWN, "--draws", "6", "-q", "--halving", "2")
    code, table, _ = fedha("sweep", "c.yaml", "--out", "t", "--jobs", "1", *asked)
    assert code == 0
    assert "5 runs stand after rounds 3 to 5: --halving lets those alone go on" in table
    assert len(finished("t")) == 1
    looks: list[int] = []

    def stops() -> bool:
        looks.append(1)
        return len(looks) > 60

    monkeypatch.setattr(stopping, "asked", stops)
    ends = []
    for _ in range(30):
        looks.clear()
        code, again, err = sweep(fedha, *asked)
        ends.append(code)
        if code == 0:
            break
        assert "before it is known which go on" in err
        assert "--draws 6 --halving 2 --out s" in err
    assert ends[-1] == 0
    assert len(ends) > 2
    assert [line for line in again.splitlines() if "%" in line] == [line for line in table.splitlines() if "%" in line]
    monkeypatch.undo()


def test_without_it_all_runs_go_to_their_end_later_and_more_draws_can_be_added(fedha: Command) -> None:
    assert sweep(fedha, *DRAWN, "--draws", "4", "-q", "--halving", "4")[0] == 0
    assert len(finished()) == 1
    assert sweep(fedha, *DRAWN, "-q", "sweep={draws: 5, halving: 4}")[0] == 0
    assert len(finished()) in (1, 2)  # the fifth may be better
    code, table, _ = sweep(fedha, *DRAWN, "--draws", "5", "-q")
    assert code == 0
    assert len(finished()) == 5
    assert "--halving" not in table


@pytest.mark.usefixtures("fedha")
def test_a_rung_is_a_part_of_the_rounds_after_the_warm_up_and_an_evaluated_one() -> None:
    given = ("training.rounds=100", "evaluation.every=7", "seed=0", "data.target=a")
    _, (job,) = opened("s", *given, "recipe={name: hgp, warmup_rounds: 10, warmup_weight: 0}")
    assert [rung_round(job, part) for part in (1, 3, 9)] == [100, 42, 21]
    _, (plain,) = opened("t", *given, "recipe=erm")
    assert [rung_round(plain, part) for part in (1, 3, 9)] == [100, 35, 14]


@pytest.mark.usefixtures("fedha")
def test_what_was_done_but_not_kept_by_a_killed_worker_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    store, (job, *_) = opened("s", *DRAWN, draws=3)
    assert Worker(store).work(Task(job, 3)).state == REACHED
    kept = rungs.read(store.run_folder(job.name), 3)
    (store.run_folder(job.name) / rungs.NAME).unlink()
    monkeypatch.setattr("fedha.sweep.work.execute", None)  # nothing is trained again
    assert Worker(store).work(Task(job, 3)).state == REACHED
    assert rungs.read(store.run_folder(job.name), 3) == kept
    for content in (b"{", b"[]", b'{"form": 9}'):
        (store.run_folder(job.name) / rungs.NAME).write_bytes(content)
        assert rungs.read(store.run_folder(job.name), 3) == (False, None)


@pytest.mark.usefixtures("fedha")
def test_a_job_that_fails_is_out_and_costs_no_other() -> None:
    store, jobs = opened("s", *RATES, "training.learning_rate={uniform: [-1, 1]}", draws=4)
    states = [one.state for one in here(Worker(store), Plan(store, jobs, 2).batches()) if one]
    assert states.count(DONE) == 1
    runnable = [one for one in jobs if one.config is not None]
    store.run_folder(runnable[0].name).joinpath("config.yaml").write_text("nonsense")
    assert whole_runs(jobs, 2) < len(runnable)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("evaluation.leave_one_domain_out=true",), "trains its folds whole"),
        (("data.held_out=0",), "data.held_out is 0"),
    ],
)
@pytest.mark.usefixtures("fedha")
def test_where_nothing_can_be_compared_it_is_refused(changes: tuple[str, ...], says: str) -> None:
    _, jobs = opened("s", "recipe=erm", *changes)
    with pytest.raises(FedhaError, match=says):
        check(jobs)


def test_a_factor_that_is_none(fedha: Command) -> None:
    code, _, err = sweep(fedha, "sweep={halving: 1}")
    assert code == 2
    assert "sweep.halving is '1'; give a whole number from 2" in err
    assert not Path("s").exists()
