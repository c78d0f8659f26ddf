"""Tables: means over seeds by hand, the rule beside every accuracy, and bytes by counting tensors."""

import statistics as python_statistics
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedha import statistics
from fedha.config import TrainingConfig
from fedha.exchange import Task
from fedha.measurement import Circumstances, measure, view_head
from fedha.models import SplitModel
from fedha.recipes import RECIPES
from fedha.report.comparison import Variant
from fedha.report.formats import Summary, Table
from fedha.report.tables import accuracy_table, bytes_per_round, recipe_table
from fedha.rules.table import RULES
from fedha.table import STATISTICS
from tests.made_runs import part, results


def _cell(table: Table, recipe: str, heading: str) -> Any:
    place = [column.heading for column in table.columns].index(heading)
    return next(row[place] for row in table.rows if row[0] == recipe)


def _close(summary: Any, mean: float, deviation: float | None = None) -> None:
    assert isinstance(summary, Summary)
    assert summary.mean == pytest.approx(mean, abs=1e-9)
    assert summary.deviation == (None if deviation is None else pytest.approx(deviation, abs=1e-9))


def test_one_run_has_no_deviation_and_every_accuracy_its_rule() -> None:
    table = accuracy_table([results()])
    _close(_cell(table, "hgp", "train % (final round)"), 90)
    _close(_cell(table, "hgp", "sources held out % (final round)"), 75)
    _close(_cell(table, "hgp", "target faraway % (final round)"), 60)
    _close(_cell(table, "hgp", "target faraway % (training-domain validation)"), 50)
    _close(_cell(table, "hgp", "target faraway % (oracle)"), 70)
    assert all(column.rule for column in table.columns if "%" in column.title)
    assert "oracle" in " ".join(table.notes)
    assert "Data: made by hand." in table.notes
    assert "deviation" not in table.caption


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_seeds_are_summed_up_by_mean_and_sample_deviation(accuracies: list[float]) -> None:
    table = accuracy_table([results("hgp", seed, accuracy) for seed, accuracy in enumerate(accuracies)])
    percents = [100 * accuracy for accuracy in accuracies]
    _close(
        _cell(table, "hgp", "target faraway % (final round)"),
        python_statistics.fmean(percents),
        python_statistics.stdev(percents),
    )
    assert _cell(table, "hgp", "seeds") == str(len(accuracies))
    assert "sample standard deviation over seeds" in table.caption


def test_the_gain_over_erm_is_paired_where_the_seeds_are_the_same() -> None:
    runs = [results("erm", 0, 0.5), results("erm", 1, 0.7), results("hgp", 0, 0.6), results("hgp", 1, 0.8)]
    heading = "target faraway minus erm, points (final round)"
    _close(_cell(accuracy_table(runs), "hgp", heading), 10, 0)
    _close(_cell(accuracy_table(runs[:3]), "hgp", heading), 0)  # 60 against the mean of 50 and 70
    assert _cell(accuracy_table(runs), "erm", heading) is None
    assert str(_cell(accuracy_table(runs), "hgp", heading)) == "+10.0 ± 0.0"
    assert not any("minus" in column.title for column in accuracy_table(runs[2:]).columns)


def test_the_gain_is_taken_within_an_experiment_and_over_the_same_targets() -> None:
    runs = [results("erm"), results("hgp", accuracy=0.7), results("hgp", accuracy=0.9)]
    table = accuracy_table(runs, [Variant("a"), Variant("a"), Variant("b")])
    heading = "target faraway minus erm, points (final round)"
    _close(_cell(table, "hgp (a)", heading), 10)
    assert _cell(table, "hgp (b)", heading) is None
    elsewhere = results("hgp", target={"elsewhere": part(0.9)})
    assert (
        _cell(accuracy_table([results("erm"), elsewhere]), "hgp", "targets, mean minus erm, points (final round)")
        is None
    )


def test_settings_of_a_recipe_are_compared_with_the_plain_baseline() -> None:
    runs = [results("erm", accuracy=0.5), results("hgp", accuracy=0.6), results("hgp", accuracy=0.7)]
    table = accuracy_table(runs, [Variant(), Variant("", "recipe.weight=1"), Variant("", "recipe.weight=2")])
    assert [row[0] for row in table.rows] == ["erm", "hgp (recipe.weight=1)", "hgp (recipe.weight=2)"]
    _close(table.rows[2][-1], 20)


def test_rows_are_in_the_order_of_the_recipes_whatever_the_order_of_runs() -> None:
    runs = [results(name) for name in ("my own", "coral", "hgp", "another", "erm")]
    assert [row[0] for row in accuracy_table(runs).rows] == ["erm", "hgp", "coral", "another", "my own"]
    assert accuracy_table(runs[::-1]) == accuracy_table(runs)


def test_several_unseen_domains_get_a_column_each_and_their_mean() -> None:
    runs = []
    for seed, shift in ((0, 0.0), (1, 0.2)):
        for target, accuracy in (("north", 0.5), ("south", 0.7)):
            runs.append(results("hgp", seed, accuracy + shift, target={target: part(accuracy + shift)}))
    table = accuracy_table(runs)
    _close(_cell(table, "hgp", "target north % (final round)"), 60, 20 / 2**0.5)
    _close(_cell(table, "hgp", "target south % (final round)"), 80, 20 / 2**0.5)
    _close(_cell(table, "hgp", "targets, mean % (final round)"), 70, 20 / 2**0.5)
    _close(_cell(table, "hgp", "targets, mean % (oracle)"), 80, 20 / 2**0.5)
    assert len(table.rows) == 1
    assert not any("not every seed" in note for note in table.notes)
    assert any("not every seed was run on every target" in note for note in accuracy_table(runs[:3]).notes)


def test_a_second_target_is_a_column_but_does_not_judge() -> None:
    run = results(target={"target": part(0.1), "gray": part(0.7)})
    headings = [column.heading for column in accuracy_table([run]).columns]
    assert "target gray % (final round)" in headings
    assert [heading for heading in headings if "oracle" in heading] == ["target % (oracle)"]


def test_a_seed_that_was_run_twice_is_noted_and_counts_once() -> None:
    table = accuracy_table([results("hgp", 0, 0.5), results("hgp", 0, 0.7)])
    _close(_cell(table, "hgp", "target faraway % (final round)"), 60)
    assert any("seed 0 appears in more than one run" in note for note in table.notes)


def test_what_was_not_measured_is_a_dash() -> None:
    bare = results(sources={"near": part(None)}, train={}, selection={"final": {"round": 3, "target_accuracy": 0.6}})
    table = accuracy_table([bare])
    assert _cell(table, "hgp", "train % (final round)") is None
    assert _cell(table, "hgp", "sources held out % (final round)") is None
    assert not any(column.rule == "oracle" for column in table.columns)
    half = accuracy_table([bare, results("erm")])
    assert _cell(half, "hgp", "target faraway % (oracle)") is None


@pytest.mark.parametrize("name", [name for name, row in STATISTICS.items() if not (row.sampled or row.representation)])
def test_the_size_of_a_statistic_is_that_of_its_tensor(name: str) -> None:
    head, features = torch.randn(3, 5), torch.randn(7, 5)
    labels = torch.arange(7) % 3
    closed = "gradient" if "pooled" in name else "hessian_diagonal" if "hutchinson" in name else name
    assert STATISTICS[name].size(3, 5) == getattr(statistics, closed)(head, features, labels).numel()


def test_bytes_of_a_round_are_those_of_the_tensors_in_its_messages() -> None:
    head, model = 3 * 5, 100
    assert bytes_per_round(RECIPES["erm"], 3, 5, model) == (4 * model, 4 * model)
    assert bytes_per_round(RECIPES["irm"], 3, 5, model) == (4 * model, 4 * model)
    assert bytes_per_round(RECIPES["vrex"], 3, 5, model) == (4 * (2 * model + 1), 4 * (model + 1))
    exact = bytes_per_round(RECIPES["exact_diagonal"], 3, 5, model, number=8)
    assert exact == (8 * (2 * model + 2 * head), 8 * (model + 2 * head))
    # measure g; send the mean of g, measure H g; send both means, train
    hgp = bytes_per_round(RECIPES["hgp"], 3, 5, model)
    assert hgp == (4 * (model + (model + head) + (model + 2 * head)), 4 * (model + 2 * head))
    assert bytes_per_round(RECIPES["coral"], 3, 5, model).up == 4 * (model + 4 + 16)
    assert bytes_per_round(RECIPES["cma"], 3, 5, model).up == 4 * (model + head + head**2)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_a_round_carries_the_model_once_an_exchange_and_the_update_once(recipe: Any) -> None:
    small, large = bytes_per_round(recipe, 2, 9, 1000), bytes_per_round(recipe, 2, 9, 1001)
    assert (large.down - small.down, large.up - small.up) == (4 * recipe.exchanges, 4)


def test_what_is_sampled_has_its_size_for_each_probe() -> None:
    view = view_head(SplitModel(nn.Identity(), nn.Linear(4, 3)), {})
    for name in ("random_features", "risk_distribution"):
        around = Circumstances(0, 1, None, 7, {})
        found = measure(name, view, view.prepare(torch.randn(6, 4)), torch.arange(6) % 3, around)
        assert found.numel() == 7 * STATISTICS[name].size(3, 5)


def test_every_rule_says_what_it_goes_with() -> None:
    for name, row in RULES.items():
        (rule,) = Task(RECIPES["erm"], TrainingConfig(mode=row.mode, optimizer=name), 0).rules
        assert (rule.at_clients, rule.weigh is not None) == (row.at_clients, row.weighs)


def test_the_table_of_recipes_has_a_row_for_each_and_states_its_model() -> None:
    table = recipe_table(10, 512, 11_000_000)
    assert [row[0] for row in table.rows] == list(RECIPES)
    assert "11,000,000 parameters" in table.caption
    assert "10 classes × (512 features + bias)" in table.caption
    assert "float32" in table.caption
    by_name = {row[0]: row for row in table.rows}
    assert by_name["hgp"][1:4] == ("head gradient + Hessian times gradient", "the clients' mean", "3")
    assert by_name["groupdro"][1:3] == ("nothing; the server weighs domains by risk", None)
    assert by_name["erm"][4:6] == ("44,000,000", "44,000,000")


def test_who_was_left_out_of_how_many_rounds_is_noted_with_the_first_reason() -> None:
    absent = {"client 1 (domain 'b')": {"rounds": 2, "evaluations": 1, "reason": "it fell."}}
    table = accuracy_table([{**results("hgp", 3), "left_out": absent}, results("hgp", 4)])
    (note,) = [one for one in table.notes if "left out" in one]
    assert note.startswith("hgp, seed 3: client 1 (domain 'b') was left out of 2 of ")
    assert note.endswith(" rounds and of 1 evaluations (at first: it fell).")


def test_a_run_that_diverged_leaves_the_means_and_its_row_says_so() -> None:
    wrong = {"diverged": "its loss is 1e+18, where a uniform guess has 0.69"}
    runs = [
        *(results("erm", seed, 0.5) for seed in range(3)),
        *(results("hgp", seed, 0.6 + seed / 10) for seed in range(2)),
        results("hgp", 2, 0.01, **wrong),
        *(results("irm", seed, 0.2, **wrong) for seed in range(2)),
    ]
    table = accuracy_table(runs)
    heading = "target faraway % (final round)"
    _close(_cell(table, "hgp", heading), 65, python_statistics.stdev([60, 70]))
    assert _cell(table, "hgp", "seeds") == "2 of 3"
    assert _cell(table, "irm", heading) == "diverged"
    assert _cell(table, "irm", "train % (final round)") == "diverged"
    assert _cell(table, "irm", "seeds") == "2"
    assert _cell(table, "erm", "seeds") == "3"
    minus = "target faraway minus erm, points (final round)"
    assert _cell(table, "irm", minus) is None
    assert _cell(table, "hgp", minus).mean == pytest.approx(15)
    notes = [note for note in table.notes if "diverged" in note]
    assert notes[1] == "irm, seeds 0, 1: diverged and is in no mean: its loss is 1e+18, where a uniform guess has 0.69."
    assert len(notes) == 2


def test_a_rule_that_took_a_round_of_the_warm_up_is_named() -> None:
    found = results("hgp", 3)
    found["selection"]["training_domain_validation"]["within_warmup"] = 16
    told = "hgp, seed 3: within the warm-up of 16 rounds: training-domain-validation takes round 15."
    assert told in accuracy_table([found]).notes


def test_a_round_of_the_warm_up_that_was_passed_over_is_named() -> None:
    found = results("hgp", 3)
    found["selection"]["training_domain_validation"] |= {"instead_of": 4, "warmup": 6}
    told = "hgp, seed 3: the warm-up of 6 rounds is passed over: training-domain-validation takes round 15 and not 4."
    assert told in accuracy_table([found]).notes


def test_what_several_runs_remark_alike_is_said_once() -> None:
    alike = [results(seed=seed, remarks=["it trains as erm does"]) for seed in (0, 1, 2)]
    notes = accuracy_table([*alike, results(seed=3, remarks=["another"])]).notes
    assert [one for one in notes if "hgp, seed" in one] == [
        "hgp, seeds 0, 1, 2: it trains as erm does.",
        "hgp, seed 3: another.",
    ]


def test_what_a_run_remarks_stands_under_the_table() -> None:
    assert "hgp, seed 0: it trains as erm does." in accuracy_table([results(remarks=["it trains as erm does"])]).notes
