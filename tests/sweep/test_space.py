"""What a sweep varies: every run once, draws by key, what is written wrongly said."""

import math
from collections.abc import Mapping
from typing import Any

import pytest

from fedha.errors import FedhaError
from fedha.recipes import RECIPES
from fedha.rules.table import RULES
from fedha.schema import number
from fedha.sweep.distributions import Distribution, read_distribution
from fedha.sweep.jobs import digest_of, make_jobs
from fedha.sweep.ranges import with_ranges
from fedha.sweep.settings import settings_of
from fedha.sweep.space import Wanted, expand, read_space
from fedha.sweep.targets import with_targets


def wanted(content: Mapping[str, Any], draws: int | None = None) -> list[Wanted]:
    return list(expand(read_space(content, draws=draws), draws))


def test_a_list_in_the_place_of_a_value_is_a_grid_and_every_combination_is_there_once() -> None:
    content = {
        "recipe": ["erm", {"name": "coral", "weight": [0.1, 1, 10]}],
        "training": {"learning_rate": [0.1, 0.01], "rounds": 5},
        "model": {"hidden": [8, 8]},  # the schema takes a list here: it is the value
        "seed": [0, 1],
    }
    found = wanted(content)
    assert len(found) == 2 * 2 + 3 * 2 * 2
    assert len({(one.label, one.seed, *sorted(one.values.items())) for one in found}) == len(found)
    assert all(one.content["model"]["hidden"] == [8, 8] for one in found)
    assert {one.values.get("recipe.weight") for one in found if one.label == "coral"} == {0.1, 1, 10}
    assert all("recipe.weight" not in one.values for one in found if one.label == "erm")
    assert len(make_jobs(found)) == len(found)


def test_a_value_that_is_a_list_itself_varies_as_a_choice() -> None:
    found = wanted({"model": {"hidden": {"choice": [[4], [8, 8]]}}, "recipe": "erm"})
    assert [one.content["model"]["hidden"] for one in found] == [[4], [8, 8]]


def test_an_own_functions_argument_is_its_value_even_where_it_is_a_list() -> None:
    content = {"model": {"name": "pkg:make", "widths": [1, 2], "deep": {"choice": [1, 2]}}, "recipe": "erm"}
    assert [one.content["model"] for one in wanted(content)] == [
        {"name": "pkg:make", "widths": [1, 2], "deep": deep} for deep in (1, 2)
    ]


def test_targets_and_seeds_multiply_and_two_targets_at_once_are_a_list() -> None:
    content = {"data": {"name": "heart", "target": ["va", "hungary"]}, "seed": [3, 4], "recipe": "erm"}
    assert [(one.target, one.seed) for one in wanted(content)] == [("va", 3), ("va", 4), ("hungary", 3), ("hungary", 4)]


def test_all_targets_are_the_data_sets_domains() -> None:
    content = with_targets({"data": {"name": "heart", "target": "all", "root": "nowhere"}})
    assert content["data"]["target"] == ["cleveland", "hungarian", "switzerland", "va"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"name": "colored_digits", "target": "all"}, "has an unseen domain of its own"),
        ({"name": "heart", "target": "all", "sources": ["va", "hungary"]}, "leave data.sources out"),
        ({"name": "arrays", "target": "all"}, "data.root is not set"),
    ],
)
def test_targets_that_cannot_be_all(data: dict[str, Any], says: str) -> None:
    with pytest.raises(FedhaError, match=says):
        with_targets({"data": data})


def test_draws_are_the_same_for_every_recipe_and_differ_by_seed_draw_and_key() -> None:
    training = {"learning_rate": {"log_uniform": [-3, -1]}, "weight_decay": {"log_uniform": [-3, -1]}}
    found = wanted({"recipe": ["erm", "coral"], "training": training, "seed": [0, 1]}, draws=3)
    assert len(found) == 2 * 2 * 3
    rates = {(one.label, one.seed, one.draw): one.values["training.learning_rate"] for one in found}
    decays = {(one.label, one.seed, one.draw): one.values["training.weight_decay"] for one in found}
    assert len(set(rates.values())) == 6  # paired over recipes, new ones for every trial
    assert all(rates["erm", seed, draw] == rates["coral", seed, draw] for seed in (0, 1) for draw in range(3))
    assert not set(rates.values()) & set(decays.values())
    more = wanted({"recipe": "erm", "training": training, "seed": [0, 1, 2]}, draws=5)
    again = {("erm", one.seed, one.draw): one.values["training.learning_rate"] for one in more}
    assert {key: again[key] for key in rates if key[0] == "erm"} == {k: v for k, v in rates.items() if k[0] == "erm"}


def test_draws_multiply_with_grids_and_a_choice_is_then_drawn() -> None:
    content = {
        "recipe": {"name": "coral", "weight": {"choice": [1, 2]}},
        "training": {"rounds": [5, 6], "learning_rate": {"uniform": [0, 1]}},
    }
    found = wanted(content, draws=8)
    assert len(found) == 16
    assert {one.values["recipe.weight"] for one in found} == {1, 2}
    assert all(
        one.values["recipe.weight"] in (1, 2) and 0 <= one.values["training.learning_rate"] <= 1 for one in found
    )


def test_a_recipe_without_distributions_runs_once_beside_drawn_ones() -> None:
    content = {"recipe": ["erm", {"name": "coral", "weight": {"uniform": [0, 1]}}]}
    assert [one.label for one in wanted(content, draws=4)] == ["erm", *["coral"] * 4]


@pytest.mark.parametrize(
    ("kind", "given", "holds"),
    [
        ("uniform", (2, 3), lambda value: 2 <= value <= 3),
        ("log_uniform", (-5, -3.5), lambda value: 1e-5 <= value <= 10**-3.5),
        ("int_uniform", (0, 2), lambda value: value in (0, 1, 2)),
        ("int_log_uniform", (0, 4), lambda value: isinstance(value, int) and 1 <= value <= 10**4),
        ("int_exp2_uniform", (3, 5.5), lambda value: isinstance(value, int) and 8 <= value <= 45),
        ("choice", ("a", [1]), lambda value: value in ("a", [1])),
    ],
)
def test_every_distribution_stays_within_its_ends_and_fills_them(kind: str, given: Any, holds: Any) -> None:
    drawn = [Distribution(kind, given).draw(0, number, "key") for number in range(300)]
    assert all(map(holds, drawn))
    if kind in ("int_uniform", "choice"):
        counts = [drawn.count(one) for one in ((0, 1, 2) if kind == "int_uniform" else given)]
        assert min(counts) > 300 / len(counts) / 1.5
    else:
        places = sorted(math.log(value) for value in drawn)
        assert places[0] < places[150] < places[-1]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"loguniform": [0, 1]}, "did you mean 'log_uniform'"),
        ({"log_unifrm": [0, 1]}, "did you mean 'log_uniform'"),
        ({"choices": [0, 1]}, "did you mean 'choice'"),
        ({"log_uniform": [1]}, "its lower and its upper end"),
        ({"log_uniform": [1, 0]}, r"is \{log_uniform: \[1, 0\]\}; give log_uniform its lower and its upper end"),
        ({"log_uniform": ["a", 0]}, "its lower and its upper end"),
        ({"log_uniform": 3}, "its lower and its upper end"),
        ({"log_uniform": [-5, 1e9]}, "exponents, of 10"),
        ({"uniform": [True, 2]}, "its lower and its upper end"),
        ({"int_uniform": [0.5, 2]}, "whole numbers"),
        ({"choice": []}, "a list of values"),
        ({"choice": "ab"}, "a list of values"),
    ],
)
def test_distributions_that_are_none(value: Any, says: str) -> None:
    with pytest.raises(FedhaError, match=says):
        read_distribution("training.learning_rate", value)


@pytest.mark.parametrize("value", [0.1, [1, 2], {"a": 1, "b": 2}, {"name": "adam"}, {}, None, "uniform"])
def test_other_values_are_no_distributions(value: Any) -> None:
    assert read_distribution("training.optimizer", value) is None


@pytest.mark.parametrize(
    ("content", "draws", "says"),
    [
        ({"training": {"learning_rate": {"uniform": [0, 1]}}}, None, "say how many draws"),
        ({"training": {"learning_rate": 0.1}}, 3, "no distribution to draw from"),
        ({"training": {"learning_rate": []}}, None, "empty list"),
        ({"training": {"learning_rate": [0.1, 0.1]}}, None, "a value twice"),
        ({"data": {"target": []}}, None, "empty list"),
        ({"data": {"target": ["a", "a"]}}, None, "a domain twice"),
        ({"seed": [1, 1]}, None, "each once"),
        ({"seed": "x"}, None, "whole numbers"),
        ({"seed": []}, None, "whole numbers"),
        ({"recipe": []}, None, "name one or several"),
        ({"recipe": ["erm", "erm"]}, None, "is there twice"),
        ({"recipe": [3.5]}, None, "give a name"),
        ({"sweep": {"draw": 3}}, None, "did you mean 'draws'"),
        ({"sweep": {"draws": 0}}, None, "a whole number from 1"),
        ({"sweep": 3}, None, "give a mapping"),
    ],
)
def test_a_space_that_is_none(content: dict[str, Any], draws: int | None, says: str) -> None:
    def read() -> None:
        settings_of(content)
        wanted({key: value for key, value in content.items() if key != "sweep"}, draws)

    with pytest.raises(FedhaError, match=says):
        read()


def test_what_the_schema_refuses_is_one_jobs_failure_and_of_all_an_error() -> None:
    jobs = make_jobs(wanted({"training": {"learning_rate": [0.1, -1]}, "recipe": "erm"}))
    assert [bool(one.refused) for one in jobs] == [False, True]
    assert "learning_rate is -1" in jobs[1].refused
    with pytest.raises(FedhaError, match="learning_rate is"):
        make_jobs(wanted({"training": {"learning_rate": [-2, -1]}, "recipe": "erm"}))


def test_two_ways_to_write_one_run_are_refused() -> None:
    with pytest.raises(FedhaError, match="compute the same"):
        make_jobs(wanted({"training": {"learning_rate": ["0.1", "1e-1"]}, "recipe": "erm"}))


def test_draws_that_give_the_values_of_an_earlier_one_are_one_run() -> None:
    content = {"training": {"learning_rate": {"choice": [0.1, 0.3]}}, "recipe": ["erm", "coral"], "seed": [0, 1]}
    for draws in (2, 9):
        jobs = make_jobs(wanted(content, draws))
        assert len({one.name for one in jobs}) == len(jobs) <= 2 * 2 * 2
        assert len(jobs) + sum(one.repeated for one in jobs) == 2 * 2 * draws
    assert {one.values["training.learning_rate"] for one in jobs} == {0.1, 0.3}


def test_a_jobs_digest_is_of_what_it_computes() -> None:
    def digest(**content: Any) -> str:
        (job,) = make_jobs(wanted({"recipe": "erm", **content}))
        assert job.config is not None
        return digest_of(job.config)

    base = digest()
    assert digest(name="other") == digest(engine={"workers": 3}) == digest(checkpoint={"every": 7}) == base
    assert len({base, digest(seed=1), digest(training={"rounds": 7}), digest(recipe="coral")}) == 4


@pytest.mark.parametrize("name", ["domainbed", "domainbed-small"])
def test_published_ranges_fit_the_schema_for_every_recipe(name: str) -> None:
    content = with_ranges({"recipe": list(RECIPES), "data": {"name": "heart"}}, name)
    jobs = make_jobs(wanted(content, draws=5))
    assert [one.refused for one in jobs if one.refused] == []
    assert {one.label for one in jobs} == set(RECIPES)


@pytest.mark.parametrize("name", [name for name, row in RULES.items() if row.mode == "local"])
def test_published_ranges_fit_the_schema_for_every_rule(name: str) -> None:
    content = with_ranges({"recipe": "erm", "training": {"mode": "local", "optimizer": name}}, "domainbed-small")
    jobs = make_jobs(wanted(content, draws=5))
    assert [one.refused for one in jobs if one.refused] == []
    ranged = [one for one in RULES[name].options if any(key.endswith(f".{one}") for key in jobs[0].values)]
    assert bool(ranged) == bool(RULES[name].options)
    with_average = with_ranges({"recipe": "erm", "training": {"weight_averaging": "ema"}}, "domainbed")
    assert with_average["training"]["weight_averaging"] == {"name": "ema", "decay": {"choice": [0.9, 0.99, 0.999]}}


def test_a_list_of_rules_with_ranges_of_their_own_is_refused() -> None:
    training = {"mode": "local", "optimizer": ["fedavg", {"name": "fedprox"}]}
    with pytest.raises(FedhaError, match="is a list and 'fedprox' in it has a range of its own; make a sweep"):
        with_ranges({"recipe": "erm", "training": training}, "domainbed")
    plain = with_ranges({"recipe": "erm", "training": {**training, "optimizer": ["fedavg", "scaffold"]}}, "domainbed")
    assert plain["training"]["optimizer"] == ["fedavg", "scaffold"]


def test_what_a_config_says_itself_is_not_ranged_and_local_steps_take_the_clients_rate() -> None:
    content = {"recipe": ["erm"], "training": {"mode": "local", "local": {"learning_rate": 0.5}}}
    training = with_ranges(content, "domainbed")["training"]
    assert training["local"]["learning_rate"] == 0.5
    assert training["local"]["batch_size"] == {"int_exp2_uniform": [3, 5.5]}
    assert "learning_rate" not in training
    with pytest.raises(FedhaError, match="did you mean 'domainbed'"):
        with_ranges(content, "domainbeds")


def test_numbers_of_a_config_file_are_texts_until_a_schema_reads_them() -> None:
    content = {"seed": ["0", "1"], "training": {"learning_rate": {"log_uniform": ["-3", "-1"]}}, "recipe": "erm"}
    found = wanted(content, draws=2)
    assert {one.seed for one in found} == {0, 1}
    assert number("-1") == -1
