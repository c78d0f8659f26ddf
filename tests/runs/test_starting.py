"""A run that begins with another run's model: all of it by name, or with a new head; from then on without that run."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedha.config import parse
from fedha.errors import FedhaError
from fedha.flower.serve import Job, load_domains
from fedha.models import build
from fedha.run import execute
from fedha.runs.listener import Silent
from fedha.runs.runfolder import read_results
from tests.jobs import run_job
from tests.killed_runs import Killed, Rounds, without_time

BASE: dict[str, Any] = {
    "model": {"hidden": [6]},
    "recipe": "erm",
    "training": {"rounds": 2},
    "evaluation": {"every": 2},
    "engine": {"name": "inline"},
}
STILL = {"rounds": 1, "optimizer": "sgd", "rates": {"featurizer": 0.0, "head": 0.0}}  # a round that moves nothing


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("probed") / "run"
    execute(parse(BASE), folder, Silent())
    return folder


def begun(start: Path, folder: Path, training: dict[str, Any] = STILL, **changes: Any) -> dict[str, Tensor]:
    model = {"hidden": [6], "start": str(start), **changes.pop("model", {})}
    execute(parse({**BASE, "seed": 3, "model": model, "training": training, **changes}), folder, Silent())
    return weights(folder)


def test_a_run_begins_with_the_whole_of_another_ones_model_and_names_it_by_digest(probed: Path, tmp_path: Path) -> None:
    found = begun(probed, tmp_path / "run")
    assert all(torch.equal(value, found[name]) for name, value in weights(probed).items())
    start = read_results(tmp_path / "run")["start"]
    assert start["run"] == str(probed)
    assert len(start["digest"]) == 32
    assert begun(probed, tmp_path / "again", {"rounds": 2}).keys() == found.keys()
    assert read_results(tmp_path / "again")["start"] == start


def test_a_new_head_is_that_of_the_runs_own_seed(probed: Path, tmp_path: Path) -> None:
    found = begun(probed, tmp_path / "run", model={"start_head": False})
    domains = load_domains(parse(BASE))
    fresh = build(parse(BASE).model, domains.input_shape, domains.classes, 3).state_dict()
    taken = {name: fresh if name.startswith("head.") else weights(probed) for name in found}
    assert all(torch.equal(value, taken[name][name]) for name, value in found.items())


def test_a_head_of_other_classes_is_begun_anew(probed: Path, tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match=r"'head.weight' has shape \(2, 6\) where .* \(1, 6\).*set model.start_head"):
        begun(probed, tmp_path / "run", model={"one_logit": True})
    assert not (tmp_path / "run" / "config.yaml").exists()
    found = begun(probed, tmp_path / "run", model={"one_logit": True, "start_head": False})
    assert found["head.weight"].shape == (1, 6)


@pytest.mark.parametrize("model", [{"hidden": [6]}, {"name": "tests.models_of_others:normed", "freeze": True}])
def test_a_killed_run_needs_the_other_one_no_more(model: dict[str, Any], tmp_path: Path) -> None:
    other, training = tmp_path / "other", {"rounds": 3}
    execute(parse({**BASE, "model": {**model, **({"freeze": False} if "freeze" in model else {})}}), other, Silent())
    content = {**BASE, "seed": 2, "model": {**model, "start": str(other)}, "training": training}
    config = parse({**content, "evaluation": {"every": 1}})
    execute(config, tmp_path / "whole", Silent())
    with pytest.raises(KeyboardInterrupt):
        execute(config, tmp_path / "killed", Killed(1))
    shutil.rmtree(other)
    rounds = Rounds()
    execute(config, tmp_path / "killed", rounds, resume=True)
    assert rounds.seen == [1, 2, 3]
    for name in ("model.safetensors", "config.yaml"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for name in ("metrics.jsonl", "results.json"):
        assert without_time(tmp_path / "killed" / name) == without_time(tmp_path / "whole" / name)


def test_frozen_parts_come_along_although_clients_make_their_own(probed: Path, tmp_path: Path) -> None:
    own = {"name": "tests.models_of_others:normed"}
    execute(parse({**BASE, "model": own}), tmp_path / "first", Silent())
    frozen = {**own, "freeze": True, "start": str(tmp_path / "first")}
    execute(parse({**BASE, "seed": 5, "model": frozen}), tmp_path / "second", Silent())
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    kept = [name for name in before if name.startswith("featurizer.")]
    assert kept
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("head."))


def test_layers_keep_their_names_over_a_change_of_precision(probed: Path, tmp_path: Path) -> None:
    found = begun(probed, tmp_path / "run", model={"precision": "mixed"})
    deeper = {name.replace("featurizer.", "featurizer.full.", 1): value for name, value in weights(probed).items()}
    assert found.keys() == deeper.keys()
    assert all(torch.equal(value, deeper[name]) for name, value in found.items())
    back = begun(tmp_path / "run", tmp_path / "back", model={"precision": "float64"})
    assert all(torch.equal(value, weights(probed)[name].double()) for name, value in back.items())


def test_in_a_deployment_it_is_a_run_of_the_servers(probed: Path, tmp_path: Path) -> None:
    config = parse({**BASE, "model": {"hidden": [6], "start": "probed"}, "training": STILL})
    results = run_job(Job(config, tmp_path / "run", start=probed), Silent())
    assert results["start"]["run"] == "probed"
    assert all(torch.equal(value, weights(tmp_path / "run")[name]) for name, value in weights(probed).items())


def test_a_run_begins_with_the_model_of_a_round_by_number_or_by_rule(tmp_path: Path) -> None:
    first = {**BASE, "training": {"rounds": 4}, "evaluation": {"every": 1}, "checkpoint": {"keep": 1}}
    execute(parse(first), tmp_path / "first", Silent())
    results = read_results(tmp_path / "first")
    models = {path.name: load_file(path) for path in (tmp_path / "first" / "models").iterdir()}
    ends = [*(models[f"round-{number:06d}.safetensors"] for number in (1, 2, 3)), weights(tmp_path / "first")]
    for number, wanted in enumerate(ends, 1):
        start = {"run": str(tmp_path / "first"), "round": number}
        found = begun(tmp_path, tmp_path / f"at-{number}", model={"start": start})
        assert all(torch.equal(value, found[name]) for name, value in wanted.items())
        assert read_results(tmp_path / f"at-{number}")["start"]["round"] == number
    chosen = results["selection"]["oracle"]["round"]
    found = begun(tmp_path, tmp_path / "oracle", model={"start": {"run": str(tmp_path / "first"), "rule": "oracle"}})
    assert all(torch.equal(value, found[name]) for name, value in ends[int(chosen) - 1].items())


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (
            {"round": 1},
            r"model.start is .*, round 1: the model of round 1 of .* was not kept, only of 2; set checkpoint",
        ),
        ({"round": 3}, r"round 3: the model of round 3 of .* was not kept, only of 2"),
        ({"rule": "orakle"}, r"rule orakle: there is no rule 'orakle'; did you mean 'oracle'"),
        ({"rule": "leave_one_domain_out"}, r"has no round by rule 'leave_one_domain_out', only by final"),
        ({"round": 0}, r"model.start.round is 0: input should be greater than or equal to 1"),
        ({"round": 1, "rule": "oracle"}, r"round 1 and rule 'oracle' both choose a round; leave one out"),
        ({"rounds": 1}, r"rounds"),
    ],
)
def test_a_round_that_was_not_kept_is_said(chosen: dict[str, Any], said: str, probed: Path, tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match=said):
        begun(tmp_path, tmp_path / "run", model={"start": {"run": str(probed), **chosen}})
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_start_is_written_as_it_is_read() -> None:
    for written in ("runs/probe", {"run": "runs/probe", "round": 3}, {"run": "runs/probe", "rule": "oracle"}):
        model = parse({"model": {"start": written}}).model
        assert model.model_dump(mode="json")["start"] == written


def test_a_target_that_the_other_run_trained_on_is_told(tmp_path: Path) -> None:
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    (tmp_path / "data").mkdir()
    for domain in ("a", "b", "c"):
        np.savez(tmp_path / "data" / f"{domain}.npz", inputs=rows.numpy(), labels=np.arange(30) % 2)
    data = {"name": "arrays", "root": str(tmp_path / "data")}
    model = {"hidden": [6]}
    execute(parse({**BASE, "model": model, "data": {**data, "target": "c"}}), tmp_path / "first", Silent())
    again = {**BASE, "model": {**model, "start": str(tmp_path / "first")}}
    results = execute(parse({**again, "data": {**data, "target": "a"}}), tmp_path / "second", Silent())
    assert any("was trained on a, which is unseen here alone" in one for one in results["remarks"])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"start": "nowhere"}, "nowhere, but there is no run in it; name the folder of a finished one"),
        ({"hidden": [7]}, "whose 'featurizer.1.0.weight' has shape .* take the network of that run$"),
        ({"hidden": [6, 5]}, "whose network lacks 'featurizer.1.2"),
        ({"head_hidden": [4]}, "whose network lacks 'head.0.bias'.*set model.start_head to false"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence_and_leaves_nothing(
    model: dict[str, Any], said: str, probed: Path, tmp_path: Path
) -> None:
    with pytest.raises(FedhaError, match=said):
        begun(probed, tmp_path / "run", model=model)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_run_that_has_not_finished_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(parse(BASE), tmp_path / "first", Killed(1))
    with pytest.raises(FedhaError, match="whose run has not finished; finish it with `fedha resume"):
        begun(tmp_path / "first", tmp_path / "run")


def test_a_head_is_left_of_a_start_alone() -> None:
    with pytest.raises(FedhaError, match="start_head is false, but there is no start whose head could be left"):
        parse({"model": {"start_head": False}})
