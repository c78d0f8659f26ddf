"""The page of a sweep: curves, hyperparameters, parallel lines, mean ranks."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fedha.report.formats import FORMATS, render
from fedha.sweep.curves import Point, joined, run_points
from fedha.sweep.heat import cells_of, heat_figure
from fedha.sweep.parallel import scale_of
from fedha.sweep.ranks import cliques, rank, rank_table
from fedha.sweep.selection import Chosen
from fedha.sweep.store import Entry
from fedha.sweep.tables import Found, sweep_tables
from fedha.sweep.varied_values import Tried, axis_scale, is_grid
from tests.commands import Command
from tests.sweep.made import sweep


def chosen(table: np.ndarray) -> dict:  # type: ignore[type-arg]
    """Accuracies [targets, recipes] as a rule's choice, one trial."""
    return {
        (("", f"r{recipe}"), f"t{target}", 0): Chosen(
            Entry(f"{recipe}-{target}", f"r{recipe}", f"t{target}", 0), 1, None, {f"t{target}": float(value)}, 0, 1
        )
        for target, row in enumerate(table)
        for recipe, value in enumerate(row)
    }


def test_mean_ranks_and_the_critical_difference_are_demsars() -> None:
    draws = np.random.default_rng(0)
    table = draws.normal(size=(14, 4)) + np.array([0, 0.1, 1, 2])
    found = rank(chosen(table))
    assert found is not None
    means = stats.rankdata(-table, axis=1).mean(0)
    assert found.means == pytest.approx({f"r{place}": one for place, one in enumerate(means)})
    assert list(found.means.values()) == sorted(means)
    assert found.difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=1e-3)  # Demšar's table 5
    assert found.p == pytest.approx(stats.friedmanchisquare(*table.T).pvalue)
    assert "Nemenyi" in rank_table(found).notes[0]


def test_recipes_that_lack_a_target_are_ranked_where_all_have_one_and_two_are_not() -> None:
    several = chosen(np.arange(12.0).reshape(4, 3))
    del several[("", "r0"), "t3", 0]
    found = rank(several)
    assert found is not None
    assert (found.blocks, list(found.means.values())) == (3, [1, 2, 3])
    assert rank(chosen(np.ones((5, 2)))) is None
    assert rank(chosen(np.ones((1, 5)))) is None
    alike = rank(chosen(np.ones((4, 3))))
    assert alike is not None
    assert (alike.p, list(alike.cliques)) == (1.0, [(0, 2)])


@pytest.mark.parametrize(
    ("ranks", "difference", "expected"),
    [
        ([1, 2, 3, 4], 1.5, [(0, 1), (1, 2), (2, 3)]),
        ([1, 1.2, 1.4, 4], 0.5, [(0, 2)]),
        ([1, 2, 3], 0.5, []),
        ([1, 1.4, 1.9, 2.2], 1.0, [(0, 2), (1, 3)]),
    ],
)
def test_cliques_are_the_longest_stretches(
    ranks: list[float], difference: float, expected: list[tuple[int, int]]
) -> None:
    assert cliques(ranks, difference) == expected


def test_a_curve_is_the_mean_over_trials_of_the_mean_over_targets_at_rounds_that_all_have() -> None:
    records = []
    for one in range(1, 7):
        evaluated = {"target": {"t": {"accuracy": one / 10}}} if one % 2 == 0 else {}
        records.append({"round": one, "bytes_up": 10**6, "bytes_down": 10**6, "seconds": 0.5, **evaluated})
    points = run_points(records)
    assert {key: one.value for key, one in points.items()} == pytest.approx({2: 20, 4: 40, 6: 60})
    assert points[4].spent == {"rounds": 4, "bytes": 8, "seconds": 2}
    other = {number: Point(one.spent, one.value + 10) for number, one in points.items() if number < 6}
    curve = joined({0: [points, other], 1: [other, other]})
    assert curve is not None
    assert curve.spent["rounds"] == [2, 4]
    assert curve.means == pytest.approx([27.5, 47.5])
    assert curve.deviations == pytest.approx([np.std([25, 30], ddof=1)] * 2)


def test_axes_are_logarithmic_where_values_span_much() -> None:
    assert [axis_scale(one) for one in ([1, 20], [1e-3, 1], [0, 1e-3, 1], [-5, 5], [0, 0])] == [
        "linear", "log", "symlog", "linear", "linear",
    ]  # fmt: skip
    assert scale_of("x", ["0.001", "1", "0.1"]).heights == pytest.approx([0, 1, 2 / 3])
    assert scale_of("x", ["b", None, "a"]).low == "'a'"
    drawn = [Tried("erm", seed, {"x": seed + 1}, None, 1.0) for seed in (0, 1)]
    grid = [Tried("erm", seed, {"x": value}, None, 1.0) for seed in (0, 1) for value in (1, 2)]
    assert (is_grid("x", drawn), is_grid("x", grid)) == (False, True)


@pytest.mark.parametrize("name", ["a\nb", "a|b", "a\\|b", "a\r\x1b[2Jb", "a\u2028b", "a&b_c%"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_recipes_name_tears_no_table(name: str, form: str) -> None:
    jobs = [Entry("x", name, "t", 0), Entry("y", "erm", "t", 0)]
    rules = {"final": {"round": 1, "score": 0.5, "targets": {"t": 0.5}}}
    run = {"rules": rules, "diverged": "", "rounds": 1, "seconds": 1.0, "bytes_up": 1, "bytes_down": 1, "epsilon": None}
    (usual, *_), (odd, *_) = (
        sweep_tables(Found([Entry("x", one, "t", 0), jobs[1]], {"x": run, "y": run}, {})) for one in ("plain", name)
    )
    text = render(odd, form)  # type: ignore[arg-type]
    assert len(text.splitlines()) == len(render(usual, form).splitlines())  # type: ignore[arg-type]
    assert "\x1b" not in text
    if form == "markdown":
        row = next(line for line in text.splitlines() if line.startswith("| a"))
        cells = row.replace("\\\\", "").replace("\\|", "")
        assert cells.count("|") == render(usual, "markdown").splitlines()[2].count("|")


def test_a_page_shows_tables_and_pictures_and_the_same_runs_give_the_same_bytes(fedha: Command) -> None:
    asked = ("recipe=[erm, {name: coral, weight: [0.1, 1, 10]}, vrex]", "training.learning_rate=[0.01, 0.1]", "seed=0")
    assert sweep(fedha, "-q", *asked)[0] == 0
    code, out, err = fedha("table", "s", "--page")
    assert (code, out, err) == (0, "Page: s/report.html\n", "")
    page = Path("s/report.html").read_text()
    for part in (
        "Training-domain validation", "Oracle, last round", "Mean ranks", "Over rounds", "Over bytes", "Over seconds",
        "recipe.weight", "training.learning_rate", "All that was varied together", "Cost",
    ):  # fmt: skip
        assert part in page, part
    assert page.count("<svg") >= 7
    assert fedha("table", "s", "-o", "other.html")[0] == 0
    assert Path("other.html").read_text() == page
    Path("mine.html").write_text("mine")
    code, _, err = fedha("table", "s", "-o", "mine.html")
    assert code == 2
    assert "is no page of fedha's" in err
    code, _, err = fedha("table", "s", "--page", "--format", "csv")
    assert code == 2
    assert "leave one of them out" in err


def test_a_heat_map_has_a_cell_for_two_values_of_a_grid_and_a_dot_for_a_draw() -> None:
    grid = [
        Tried(
            "hgp",
            seed,
            {"training.learning_rate": rate, "recipe.weight": weight},
            50.0,
            100 * rate + int(weight) + seed,
        )
        for rate in (0.1, 0.01)
        for weight in ("1", "2", "3")
        for seed in (0, 1)
    ]
    assert cells_of("recipe.weight", "training.learning_rate", grid)[2.0, 0.1] == 12.5
    drawn = heat_figure("m0", "hgp", grid)
    assert "best at recipe.weight 3 and training.learning_rate 0.1, 13.5 %" in drawn
    assert all(f">{mean}</text>" in drawn for mean in ("11.5", "12.5", "13.5", "2.5", "3.5", "4.5"))
    draws = [Tried("hgp", 0, {"a": place / 7, "b": (place * 3) % 7}, None, float(place)) for place in range(7)]
    assert "over a and b: best at a 0.8571 and b 4, 6.0 %" in heat_figure("m1", "hgp", draws)
    assert heat_figure("m2", "hgp", [one for one in grid if one.values["recipe.weight"] == "1"]) == ""
