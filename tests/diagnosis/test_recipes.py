"""Diagnoses of several recipes in one figure and table."""

from typing import Any

import pytest

from fedha.report.diagnosis.recipes import curves, curves_figures, curves_table


def found(recipe: str, target: float, sources: float, radii: tuple[float, ...] = ()) -> dict[str, Any]:
    """A diagnosis in which the target loses 10 points a radius, and the sources none."""

    def pair(source: str, to: str, lost: float) -> dict[str, Any]:
        told = {"a": (sources, sources), "b": (sources + 0.2, sources + 0.2), "t": (target, target - lost)}
        return {"source": source, "target": to, "accuracies": told}

    pairs = [
        pair("the sources' mean", "t", 0.1),
        pair("the sources' mean", "t", 0.2),
        pair("t", "the sources' mean", 0.9),
    ]
    domains = [{"name": name, "role": "target" if name == "t" else "source"} for name in "abt"]
    settings = {"logits": [0.1, 1.0], "radii": list(radii)}
    return {"made": {"recipe": recipe, "settings": settings}, "domains": domains, "transfer": {"pairs": pairs}}


def test_each_recipe_is_the_mean_of_its_runs_at_every_radius() -> None:
    known = curves([found("erm", 0.5, 0.7), found("erm", 0.7, 0.7), found("hgp", 0.8, 0.6)])
    assert known is not None
    assert (known.unit, known.radii, list(known.of)) == ("logit units", (0.0, 0.1, 1.0), ["t"])
    rows = curves_table(known).rows
    assert rows[0] == ("t", "erm", "2", "60.0 / 80.0", "50.0 / 80.0", "40.0 / 80.0")
    assert rows[1][:4] == ("t", "hgp", "1", "80.0 / 70.0")
    (own, drawn), (theirs, _) = curves_figures("x", known)
    assert ("Accuracy of t" in own, "sources' mean" in theirs) == (True, True)
    assert "erm 40.0 %; hgp 60.0 %" in drawn


@pytest.mark.parametrize(
    "several",
    [
        [found("erm", 0.5, 0.7)],
        [found("erm", 0.5, 0.7), found("hgp", 0.5, 0.7, (2.0, 3.0))],
        [{**found("erm", 0.5, 0.7), "transfer": {"pairs": []}}, {**found("hgp", 0.5, 0.7), "transfer": {"pairs": []}}],
    ],
    ids=["one recipe", "other radii", "no target"],
)
def test_what_cannot_be_compared_is_not_drawn(several: list[dict[str, Any]]) -> None:
    assert curves(several) is None
