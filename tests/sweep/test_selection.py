"""Choosing over rounds and hyperparameters, the tables, and the comparison with the baseline."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedha.report.formats import render
from fedha.runs import runfolder
from fedha.sweep.compared import adjusted, difference
from fedha.sweep.selection import choose
from fedha.sweep.store import Entry
from fedha.sweep.summary import summarise
from fedha.sweep.tables import Found, accuracies, comparison, sweep_tables
from tests import made_runs


def run_of(score: float, accuracy: float, **changes: Any) -> dict[str, Any]:
    chosen = {"round": 10, "score": score, "targets": {"t": accuracy}, **changes.pop("chosen", {})}
    rules = {"training_domain_validation": chosen, "oracle_last": {**chosen, "score": accuracy}}
    found = {"rules": rules, "diverged": "", "rounds": 10, "seconds": 2.0, "bytes_up": 5, "bytes_down": 7}
    return {**found, "epsilon": None, "remarks": [], **changes}


def entry(name: str, label: str = "erm", target: str = "t", seed: int = 0, **values: Any) -> Entry:
    return Entry(name, label, target, seed, None, values)


def test_a_rule_keeps_the_run_with_the_best_score_not_the_best_target() -> None:
    jobs = [entry("a", weight=1), entry("b", weight=2), entry("c", weight=3)]
    found = {"a": run_of(0.8, 0.3), "b": run_of(0.9, 0.2), "c": run_of(0.9, 0.7)}
    kept = choose("training_domain_validation", jobs, found)[("", "erm"), "t", 0]
    assert (kept.entry.name, kept.accuracy, kept.of) == ("b", 0.2, 3)  # of two as good, the earlier
    assert choose("oracle_last", jobs, found)[("", "erm"), "t", 0].entry.name == "c"


def test_what_diverged_or_has_not_ended_is_not_chosen_and_data_are_not_chosen_over() -> None:
    parts = {"data.partition": {"name": "lambda", "clients": "6"}, "data.angles": ["0", "15"]}
    jobs = [entry("a"), entry("b"), entry("c"), entry("d", **{"data.label_noise": 0.1}), entry("e", **parts)]
    found = {"a": run_of(0.9, 0.9, diverged="its loss is 1e18"), "b": run_of(0.5, 0.4)}
    found |= {"d": run_of(0.9, 0.8), "e": run_of(0.9, 0.8)}
    chosen = choose("training_domain_validation", jobs, found)
    assert {row: one.entry.name for (row, _, _), one in chosen.items()} == {
        ("", "erm"): "b",
        ("data.label_noise=0.1", "erm"): "d",
        ("data.partition={name: lambda, clients: 6}, data.angles=[0, 15]", "erm"): "e",
    }


def test_a_summary_keeps_warm_up_rounds_out_and_says_where_they_would_have_been_selected(tmp_path: Path) -> None:
    folder = made_runs.write_run(tmp_path / "run")
    lines = [json.loads(one) for one in (folder / runfolder.METRICS).read_text().splitlines()]
    for line in lines:  # the first rounds are the best
        for one in line.get("held_out", {}).values():
            one["accuracy"] = 1 - line["round"] / 100
    (folder / runfolder.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    rule, evaluated = "training_domain_validation", [line["round"] for line in lines if line.get("target")]
    free, own = summarise(folder, 0), summarise(folder, evaluated[0])
    assert free["rules"][rule]["round"] == evaluated[0]
    assert own["rules"][rule]["round"] == evaluated[1]
    assert own["rules"][rule]["warmup"] == evaluated[0]
    assert "warmup" not in free["rules"][rule]
    assert own["rules"]["oracle_last"]["round"] == own["rules"]["final"]["round"] == evaluated[-1]


def test_a_runs_cost_is_that_of_its_folds_too(tmp_path: Path) -> None:
    folder = made_runs.write_run(tmp_path / "run")
    alone = summarise(folder, 0)
    fold = folder / "folds" / "near"
    fold.mkdir(parents=True)
    (fold / runfolder.METRICS).write_bytes((folder / runfolder.METRICS).read_bytes())
    both = summarise(folder, 0)
    assert alone["bytes_up"] > 0
    assert [both[key] for key in ("bytes_up", "bytes_down")] == [2 * alone[key] for key in ("bytes_up", "bytes_down")]
    records = runfolder.read_metrics(folder)
    assert both["seconds"] == pytest.approx(alone["seconds"] + sum(one["seconds"] for one in records))


def test_targets_stand_in_the_order_in_which_they_were_asked_for_whichever_ended_first() -> None:
    jobs = [entry(name, target=name) for name in "abc"]
    found = {name: run_of(0.5, 0.5, chosen={"targets": {name: 0.5}}) for name in "cab"}
    del found["a"]
    assert [target for _, target, _ in choose("oracle_last", jobs, found)] == ["b", "c"]
    more = [*jobs, entry("a2", target="a", weight=2)]
    found["a2"] = run_of(0.5, 0.5, chosen={"targets": {"a": 0.5}})
    assert [target for _, target, _ in choose("oracle_last", more, found)] == ["a", "b", "c"]


def made(recipes: int = 2, targets: int = 3, seeds: int = 4) -> Found:
    generator = np.random.default_rng(0)
    labels = ["coral", "erm", *(f"own{one}" for one in range(recipes - 2))]
    names = itertools.product(labels, [f"d{one}" for one in range(targets)], range(seeds))
    jobs = [entry(f"{label}-{target}-{seed}", label, target, seed) for label, target, seed in names]
    shift = {label: place / 20 for place, label in enumerate(labels)}
    found = {
        one.name: run_of(0.5, 0.5 + shift[one.label] + 0.01 * generator.normal(), chosen={"targets": {}})
        for one in jobs
    }
    for one in jobs:
        accuracy = 0.5 + shift[one.label] + 0.01 * float(generator.normal())
        for rule in found[one.name]["rules"].values():
            rule["targets"] = {one.target: accuracy}
    return Found(jobs, found, {})


def test_a_table_has_a_column_a_target_their_average_and_the_worst_with_standard_errors() -> None:
    found = made()
    chosen = choose("training_domain_validation", found.jobs, found.summaries)
    table = accuracies("training_domain_validation", chosen)
    assert [one.title for one in table.columns] == [
        "recipe", "trials", "d0 %", "d1 %", "d2 %", "average %", "worst domain %",
    ]  # fmt: skip
    assert [row[0] for row in table.rows] == ["erm", "coral"]
    by_seed = [[100 * chosen[("", "coral"), f"d{target}", seed].accuracy for target in range(3)] for seed in range(4)]
    cell = table.rows[1][5]
    means = np.mean(by_seed, axis=1)
    assert cell.mean == pytest.approx(means.mean())
    assert cell.deviation == pytest.approx(means.std(ddof=1) / 2)
    worst = np.min(by_seed, axis=1)
    assert table.rows[1][6].mean == pytest.approx(worst.mean())
    assert [row[5].rank for row in table.rows] == [1, 2]
    assert "se" in render(table, "csv").splitlines()[0]
    assert "\\mathbf{" in render(table, "latex")
    assert "**" in render(table, "markdown")


def test_the_comparison_is_paired_and_its_p_is_that_of_a_sign_flip_test() -> None:
    values = [1.2, 0.4, -0.3, 2.0, 0.9, 1.1, 0.2]
    found = difference(values)
    reference = stats.permutation_test(
        (np.array(values),), np.sum, permutation_type="samples", n_resamples=math.inf, alternative="two-sided"
    )
    assert found.p == pytest.approx(reference.pvalue)
    low, high = stats.t.interval(0.95, 6, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert difference([3.0]).p is None


def test_noise_is_not_sold_as_progress() -> None:
    generator = np.random.default_rng(1)
    raw, corrected = 0, 0
    for _ in range(200):
        several = adjusted({f"r{one}": difference(list(generator.normal(size=6))) for one in range(10)})
        raw += any(one.p <= 0.05 for one in several.values())
        corrected += any(one.adjusted <= 0.05 for one in several.values())
    assert raw > 40  # of 200: ten looks at nothing find something
    assert corrected <= 16


def test_many_pairs_are_drawn_and_agree_with_the_exact_test() -> None:
    values = list(np.random.default_rng(2).normal(0.5, 1, size=15))
    signs = np.array(list(itertools.product((1, -1), repeat=15)))
    exact = np.mean(np.abs(signs @ np.array(values)) >= abs(sum(values)) - 1e-9)
    assert difference(values).p == pytest.approx(exact, abs=0.01)


def test_erm_is_no_comparison_with_itself_and_without_it_there_is_none() -> None:
    found = made(3)
    chosen = choose("training_domain_validation", found.jobs, found.summaries)
    table = comparison("training_domain_validation", chosen)
    assert table is not None
    assert [row[:2] for row in table.rows] == [("coral", "12"), ("own0", "12")]
    rest = {place: one for place, one in chosen.items() if place[0][1] != "erm"}
    assert comparison("training_domain_validation", rest) is None


def test_failures_and_what_is_missing_are_told() -> None:
    found = made()
    name = found.jobs[0].name
    rest = {key: value for key, value in found.summaries.items() if key != name}
    tables = sweep_tables(Found(found.jobs, rest, {name: "the disk is full"}))
    assert "not every trial has every target" in " ".join(tables[0].notes)
    assert any("1 failed: the disk is full" in note for note in tables[-1].notes)
    assert ("11 of 12", "0", "1") in [row[1:4] for row in tables[-1].rows]


def test_a_warm_up_that_would_have_been_selected_is_flagged() -> None:
    jobs = [entry("a")]
    chosen = choose("training_domain_validation", jobs, {"a": run_of(0.5, 0.5, chosen={"warmup": 30})})
    assert "round of the warm-up (of 30)" in " ".join(accuracies("training_domain_validation", chosen).notes)
