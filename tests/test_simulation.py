"""Objects through `fedha.simulate` and back through `fedha.load`: the same run as a config's, known by digest."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedha
from fedha.cli.launch import find_config
from fedha.config import load_written, parse
from fedha.config.recipe import as_settings
from fedha.data import Cut, split
from fedha.data.domain import Domain, Examples
from fedha.errors import FedhaError
from fedha.flower.serve import load_domains
from fedha.models import SplitModel
from fedha.recipes import RECIPES, Recipe, Term
from fedha.run import execute
from fedha.runs.listener import Silent
from tests import models_of_others
from tests.made_runs import FAST, as_in_0_1_0


def domain(place: int, name: str = "") -> Domain:
    draws = torch.Generator().manual_seed(place)
    inputs = torch.randn(60, 2, 3, generator=draws)
    labels = (inputs[:, 0, 0] > 0).long()
    return Domain(name or f"d{place}", Examples(inputs[:40], labels[:40]), Examples(inputs[40:], labels[40:]))


DOMAINS = [domain(0), domain(1), domain(2)]


def network() -> SplitModel:
    torch.manual_seed(1)
    return SplitModel(nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh()), nn.Linear(4, 2))


def test_a_result_has_numbers_rows_and_the_network(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = fedha.simulate(
        DOMAINS, models_of_others.fitted, "exact_diagonal", target="d2", training={"rounds": 3}, out=out
    )
    assert result.folder == out
    assert [row["round"] for row in result.history] == [1, 2, 3]
    assert result.history[-1]["target/d2/accuracy"] == result.accuracy("d2")
    assert 0 <= result.accuracy("d0", "training_domain_validation") <= 1
    assert "exact_diagonal" in str(result)
    loaded = fedha.load(out)
    assert loaded.expects.input_shape == (2, 3)
    assert loaded.expects.classes == 2
    inputs, labels = (
        torch.cat([getattr(p, name) for p in (DOMAINS[2].train, DOMAINS[2].held_out)]) for name in ("inputs", "labels")
    )
    assert float((loaded(inputs).argmax(1) == labels).float().mean()) == pytest.approx(result.accuracy("d2"))
    with pytest.raises(FedhaError, match="no rule 'best', only final, training_domain_validation, oracle"):
        result.accuracy("d2", "best")
    with pytest.raises(FedhaError, match="no accuracy of 'photo' in round 3, only of d0, d1, d2"):
        result.accuracy("photo")


def test_without_a_target_there_are_the_sources_alone_and_no_folder_is_left() -> None:
    result = fedha.simulate(DOMAINS, network, "erm", training={"rounds": 2})
    assert result.accuracy("d1") >= 0
    folder = result.folder
    assert folder.is_dir()
    del result
    assert not folder.exists()


def test_it_is_the_run_that_a_config_describes(tmp_path: Path) -> None:
    changes = ["recipe=coral", "seed=3", "training.rounds=2", "evaluation.leave_one_domain_out=false"]
    config = find_config("quickstart", changes, "inline").runs()[0]
    execute(config, tmp_path / "config", Silent())
    domains = load_domains(config)
    given = [*domains.sources, *domains.targets]
    maker = lambda input_shape, classes: fedha.models.build(config.model, input_shape, classes, 3)  # noqa: E731
    names = [one.name for one in domains.targets]
    fedha.simulate(
        given, maker, "coral", target=names, training=config.training, seed=3, engine="inline", out=tmp_path / "objects"
    )
    one, other = (fedha.runs.runfolder.read_model(tmp_path / name) for name in ("config", "objects"))
    assert all(torch.equal(other[name], value) for name, value in one.items())


def test_objects_without_a_name_are_known_by_digest_and_taken_again(tmp_path: Path) -> None:
    made = network()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    fedha.simulate(DOMAINS, made, "erm", training={"rounds": 2}, out=tmp_path / "run")
    assert all(torch.equal(made.state_dict()[name], value) for name, value in before.items())
    config = json.loads((tmp_path / "run" / "results.json").read_text())
    assert config["rounds"] == 2
    longer = fedha.simulate(DOMAINS, made, "erm", training={"rounds": 4}, out=tmp_path / "run", resume=True)
    assert [row["round"] for row in longer.history] == [1, 2, 3, 4]
    with pytest.raises(FedhaError, match=r"data\.digest was"):
        fedha.simulate(
            [domain(7, "d0"), *DOMAINS[1:]], made, "erm", training={"rounds": 5}, out=tmp_path / "run", resume=True
        )
    assert fedha.load(tmp_path / "run", model=network).head.weight.shape == (2, 4)
    other = SplitModel(nn.Sequential(nn.Flatten(), nn.Linear(6, 5)), nn.Linear(5, 2))
    with pytest.raises(FedhaError, match=r"featurizer\.1\.weight has shape \(4, 6\) in .* but \(5, 6\) in the network"):
        fedha.load(tmp_path / "run", model=other)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"target": "d9"}, "target names 'd9', which is no domain; the domains are d0, d1, d2"),
        ({"engine": "ray"}, "whose workers cannot import this network or function; define it in a module"),
        ({"engine": "flower"}, "whose processes cannot import this network or function; define it in a module"),
        ({"model": nn.Linear(6, 2)}, r"model is a Linear; give .*SplitModel\.of"),
        ({"model": 3}, "model is 3; give a SplitModel or a function"),
        ({"recipe": "hpg"}, "did you mean 'hgp'"),
        ({"training": {"round": 3}}, "unknown key 'training.round'; did you mean 'rounds'"),
        ({"domains": [DOMAINS[0], DOMAINS[0]]}, "give every domain its own name"),
        ({"domains": [3]}, "the data of client 0 are a int"),
        ({"recipe": ["erm", "hgp"]}, "give a row's name .* it trains one run"),
        ({"seed": [0, 1]}, r"was given seed=\[0, 1\]; give a whole number from 0"),
        ({"target": ["d2", "d2"]}, "was given the target 'd2' twice"),
        ({"recipe": Recipe("mine", (Term("gradient", -1.0),))}, "weight of gradient is -1; give a number from 0"),
    ],
)
def test_what_does_not_fit_is_said_before_the_first_round(change: dict, problem: str, tmp_path: Path) -> None:
    given = {"domains": DOMAINS, "model": lambda: network(), "recipe": "erm", "out": tmp_path / "run", **change}
    with pytest.raises(FedhaError, match=problem):
        fedha.simulate(given.pop("domains"), given.pop("model"), given.pop("recipe"), **given)
    assert not (tmp_path / "run").exists()


def test_rows_in_two_parts_are_told_and_not_refused() -> None:
    class Notes(Silent):
        said: tuple[str, ...] = ()

        def note(self, text: str) -> None:
            self.said = (*self.said, text)

    notes, copied = Notes(), DOMAINS[0]
    twin = Domain("twin", Examples(copied.train.inputs[:5].numpy(), np.array(copied.train.labels[:5])), copied.held_out)
    fedha.simulate([copied, twin], network, "erm", training={"rounds": 1}, listener=notes)
    assert "5 rows of 'd0' (train) are also in 'twin' (train)" in notes.said
    assert "20 rows of 'd0' (held-out) are also in 'twin' (held-out)" in notes.said


def test_a_run_of_the_first_version_is_loaded_as_its_data_say(tmp_path: Path) -> None:
    execute(find_config("quickstart", [*FAST, "recipe=erm", "seed=0"]), tmp_path / "run", Silent())
    before = fedha.load(tmp_path / "run")
    after = fedha.load(as_in_0_1_0(tmp_path / "run"))
    assert after.expects == before.expects
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())


def test_a_recipe_is_handed_over_as_a_value_and_stands_in_the_config(tmp_path: Path) -> None:
    terms = (Term("gradient", 0.1, target="zero"), Term("gradient_variance", 2.0, client_average=0.5))
    mine = Recipe("mine", terms, weight=3.0, warmup_rounds=1, weighting="risk", source="nowhere")
    asked = {"training": {"rounds": 3}}
    whole = fedha.simulate(DOMAINS, models_of_others.fitted, mine, **asked)
    fedha.simulate(DOMAINS, models_of_others.fitted, mine, training={"rounds": 1}, out=tmp_path / "run")
    written = load_written(tmp_path / "run" / "config.yaml").recipe[0]
    assert replace(written.resolve(), source="nowhere") == mine
    resumed = fedha.simulate(DOMAINS, models_of_others.fitted, written, out=tmp_path / "run", resume=True, **asked)
    assert all(map(torch.equal, whole.model.state_dict().values(), resumed.model.state_dict().values()))
    assert as_settings(RECIPES["hgp"]) == {"name": "hgp"}


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        ({"name": "mine", "terms": [{"statistic": "gradeint"}]}, "no statistic 'gradeint'; did you mean 'gradient'"),
        ({"name": "mine", "terms": [{"statistic": "gradient", "wieght": 1}]}, "wieght is 1: unexpected keyword"),
        ({"name": "mine", "terms": [], "align": {"gradient": 1}}, "align and terms both say what is aligned"),
        ({"name": "hgp", "weighting": "risk"}, "weighting and projected are of a row of your own"),
    ],
)
def test_a_row_of_your_own_that_is_wrong_is_said(recipe: dict, problem: str) -> None:
    with pytest.raises(FedhaError, match=problem):
        parse({"recipe": recipe})


def test_a_folder_that_nobody_can_look_into_is_one_sentence(tmp_path: Path) -> None:
    for ask in (fedha.load, lambda out: fedha.simulate(DOMAINS, network, out=out, resume=True)):
        with pytest.raises(FedhaError, match=r"cannot look into the folder .*: File name too long"):
            ask(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("make", "classes", "problem"),
    [
        (lambda: SplitModel(nn.Flatten(), nn.LazyLinear(2)), 2, "has no shape yet, for its layer is a lazy one"),
        (network, 3, "tells 2 classes apart but the data have 3; give its head so many outputs"),
    ],
)
def test_a_network_that_does_not_fit_is_said_before_the_first_round(make: object, classes: int, problem: str) -> None:
    with pytest.raises(FedhaError, match=problem):
        fedha.simulate(DOMAINS, make, "erm", classes=classes)


def test_a_round_that_never_was_is_said(tmp_path: Path) -> None:
    fedha.simulate(DOMAINS, network, "erm", training={"rounds": 1}, out=tmp_path / "run")
    with pytest.raises(FedhaError, match=r"there is no round 9 in .*; its rounds are 1 to 1"):
        fedha.load(tmp_path / "run", round=9)
    with pytest.raises(FedhaError, match="was given round='1'; give a whole number from 1"):
        fedha.load(tmp_path / "run", round="1")


def coarse(precision: torch.dtype, *, frozen: bool) -> SplitModel:
    made = network()
    made.featurizer.to(precision).requires_grad_(not frozen)
    return made


@pytest.mark.parametrize(
    ("precision", "frozen"), [(torch.bfloat16, False), (torch.float16, False), (torch.bfloat16, True)]
)
def test_a_network_that_is_too_coarse_is_refused_by_name(precision: torch.dtype, frozen: bool) -> None:
    given = coarse(precision, frozen=frozen)
    with pytest.raises(FedhaError, match=rf"'featurizer.1.weight' is {precision}, too coarse .* model.float"):
        fedha.simulate(DOMAINS, given, "erm", training={"rounds": 1})


@pytest.mark.parametrize("recipe", ["hgp", "hutchinson"])
def test_a_head_whose_derivatives_torch_lacks_is_one_sentence(recipe: str) -> None:
    given = SplitModel(network().featurizer, nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)))
    with pytest.raises(FedhaError, match=r"cannot be taken of this head: .*_weight_norm.* take a recipe"):
        fedha.simulate(DOMAINS, given, recipe, training={"rounds": 1})
    assert fedha.simulate(DOMAINS, given, "erm", training={"rounds": 1}).results["rounds"] == 1


@pytest.mark.parametrize("kind", [list, np.array, lambda names: np.array(names, dtype=object)])
def test_groups_are_named_by_texts_too(kind: Callable[[list[str]], Any]) -> None:
    names = [f"patient {row // 4}" for row in range(24)]
    inputs, labels = np.random.default_rng(0).normal(size=(24, 2, 3)), np.arange(24) % 2
    made = [split(f"d{place}", Examples.of(inputs + place, labels, kind(names)), Cut(0.25)) for place in range(2)]
    result = fedha.simulate(
        [*made, DOMAINS[2]], models_of_others.fitted, "erm", target="d2", training={"rounds": 1}, engine="inline"
    )
    assert result.accuracy("d0") >= 0
    held = [set(part.metadata["group"]) for part in (made[0].train, made[0].held_out)]
    assert held[0] | held[1] == set(names)
    assert not held[0] & held[1]


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (np.arange(24) / 4, "groups are float64, such as 0.0; give one whole number or text an example"),
        ([None] * 24, "groups are object, such as None; give one whole number or text"),
        (["a"] * 23, "domain 'd' has 23 groups but 24 labels; give one an example"),
    ],
)
def test_groups_that_are_none_are_refused(groups: Any, told: str) -> None:
    with pytest.raises(FedhaError, match=told):
        split("d", Examples.of(np.zeros((24, 3)), np.arange(24) % 2, groups), Cut(0.25))
