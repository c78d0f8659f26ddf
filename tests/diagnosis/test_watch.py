"""What a run logs of its sources on its way."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedha.config import Config, parse
from fedha.diagnosed import between_sources
from fedha.diagnosis.watch import watch
from fedha.errors import FedhaError
from fedha.flower.serve import load_domains
from fedha.models import build
from fedha.report.comparison import read_runs
from fedha.report.page import render_report
from fedha.run import execute
from fedha.runs.listener import Silent

BASE: dict[str, Any] = {
    "data": {"name": "colored_digits"},
    "model": {"hidden": [4]},
    "recipe": "exact_diagonal",
    "training": {"rounds": 5},
    "evaluation": {"every": 2, "diagnose_every": 2},
    "engine": {"name": "inline"},
}


def config(**changes: Any) -> Config:
    return parse({**BASE, **changes})


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_kth_round_and_the_last_are_logged_and_the_bits_stay(tmp_path: Path) -> None:
    execute(config(), tmp_path / "with", Silent())
    execute(config(evaluation={"every": 2}), tmp_path / "without", Silent())
    models = [(tmp_path / one / "model.safetensors").read_bytes() for one in ("with", "without")]
    assert models[0] == models[1]
    told, plain = records(tmp_path / "with"), records(tmp_path / "without")
    assert [one["round"] for one in told if "diagnosis" in one] == [2, 4, 5]
    for one, other in zip(told, plain, strict=True):
        logged = one.pop("diagnosis", None)
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
        assert logged is None or logged["gradient_chance"] < logged["gradient_chance_95"]
    last, after = records(tmp_path / "with")[-1]["diagnosis"], between_sources(tmp_path / "with")
    assert (last["hessian"], last["gradient"]) == (pytest.approx(after.hessian), pytest.approx(after.gradient))
    page = render_report(read_runs([tmp_path / "with"])[0])
    assert "Hessians, spectral norm end at" in page
    assert "Between sources: how far" in page
    assert "Between sources: how far" not in render_report(read_runs([tmp_path / "without"])[0])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"privacy": {"secure_aggregation": True, "minimum": 2}}, "which privacy.secure_aggregation hides"),
        ({"data": {"name": "colored_digits", "color_flips": [0.1]}}, "and this run has 1"),
        ({"model": {"hidden": [4], "head_hidden": [3]}}, "needs a linear one with a bias"),
    ],
)
def test_what_cannot_be_logged_is_refused_before_the_first_round(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(FedhaError, match=told):
        execute(config(**{"recipe": "erm", **changes}), tmp_path / "run", Silent())
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_deployment_whose_server_has_no_source_refuses_it() -> None:
    wanted = config()
    domains = load_domains(wanted)
    model = build(wanted.network, domains.input_shape, domains.classes, 0)
    with pytest.raises(FedhaError, match="examples, which stay at their sites"):
        watch(model, wanted, None)
