"""Somebody's own statistic under example-level privacy: each example's term is its own, or the run is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedha import Mean, Statistic, add_statistic, registry
from fedha.errors import FedhaError
from fedha.privacy import gate
from fedha.privacy.own_terms import refuse_mixed_terms
from fedha.privacy.releasable import releasable
from fedha.recipes import Recipe, Term
from tests.privacy.test_cheating_server import assert_covered, request_of, site_of
from tests.statistics_of_others import logit_mean

Outer = Callable[[Any], Any]

MIXED: dict[str, tuple[Outer, str]] = {
    "centred features": (lambda at: (at.ones, at.features - at.features.mean(0)), "changes with the others"),
    "a factor of the batch's size": (lambda at: (at.ones * at.losses.sum(), at.features), "changes with the others"),
    "ranks": (lambda at: (at.ones, at.logits.argsort(0).double()), "changes with the others"),
    "what is seen at large numbers alone": (
        lambda at: (at.ones, at.features * (at.features.abs().amax() > 100)),
        "changes with the others",
    ),
    "noise of its own": (lambda at: (at.ones, at.features + torch.randn(3, 1)), "is drawn at random"),
    "one row for all": (lambda at: (at.ones[:1], at.features), r"give \[n, U\] and \[n, V\]"),
    "no matrix": (lambda at: (at.losses[:, 0], at.features), r"give \[n, U\] and \[n, V\]"),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds is forgotten with it."""
    monkeypatch.setattr(registry, "_added", dict(registry._added))


def added(outer: Outer) -> Recipe:
    mean = Mean("own", lambda piece: piece.features.mean(0), outer=outer)
    add_statistic(Statistic("own", (mean,), lambda means, examples: means["own"].reshape(-1)))
    return Recipe("mine", (Term("own"),))


@pytest.mark.parametrize("name", MIXED)
def test_a_term_that_is_not_one_examples_own_is_refused_with_every_request(name: str) -> None:
    """Centred features of 1e3 moved a sum by 7.7 clips, and nobody was told."""
    outer, problem = MIXED[name]
    client, recipe = site_of(), added(outer)
    honest = request_of(client)
    for kind in ("measure", "train"):
        asked = replace(honest, task=replace(honest.task, recipe=recipe), measure=("own",), kind=kind)
        found = gate.refuse(client.site, f"query.{kind}", asked, client.model, client.domain)
        assert found is not None
        assert found.kind == "network"
        with pytest.raises(FedhaError, match=problem):
            raise FedhaError(found.sentence)


def test_what_a_term_is_compared_with_is_tried_too() -> None:
    """It is measured in place of the term's own statistic."""
    client, recipe = site_of(), added(MIXED["centred features"][0])
    add_statistic(replace(logit_mean(), reference="own"))
    asked = request_of(client)
    asked = replace(asked, task=replace(asked.task, recipe=replace(recipe, terms=(Term("logit_mean"),))))
    found = gate.unfit(asked.task, client.model, client.domain)
    assert found is not None
    assert "what one example adds to 'own' changes with the others" in found.sentence


def test_a_term_of_ones_own_is_answered_and_covered() -> None:
    add_statistic(logit_mean())
    recipe = Recipe("mine", (Term("logit_mean"), Term("gradient")))
    settings = {"statistics_clip": 1e-3, "clip": 1.0, "scales": {"logit_mean": 1e6}, "guard_heads": False}
    assert_covered((recipe, settings, {"parameters": 1.0, "references": 1.0, "inputs": 1e3, "network": "linear"}))


@pytest.mark.parametrize(("classes", "width"), [(1, 1), (1, 4), (2, 1), (5, 9)])
def test_all_that_fedha_releases_would_pass(classes: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedha.privacy.own_terms.STATISTICS", {})
    monkeypatch.setattr("fedha.privacy.own_terms.COUNTED", {})
    refuse_mixed_terms(releasable(), classes, width)
