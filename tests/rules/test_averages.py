"""The averages of weights: a moving one, and that of the valley of the held-out risk, written again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from fedha.config import TrainingConfig, parse
from fedha.errors import FedhaError
from fedha.exchange import Task
from fedha.federation import run_round
from fedha.flower.serve import Job
from fedha.recipes import RECIPES
from fedha.rules.averages import ema
from fedha.rules.rule import Answers, Rule
from fedha.rules.swad import swad
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.jobs import run_job
from tests.killed_runs import assert_resumes
from tests.problems import SEED, make_problem


def told(rule: Rule, models: Sequence[float], risks: dict[int, float]) -> float:
    """What a rule shows in the end of models that are one number each; risks by how many models were trained."""
    like = {"w": torch.zeros(1, dtype=torch.float64)}
    state = dict(rule.init(like))
    now = like
    for number, value in enumerate(models, 1):
        now = {"w": torch.full((1,), value, dtype=torch.float64)}
        assert rule.aggregate is not None
        kept, state = rule.aggregate(state, Answers(now, like, {}, 1.0, 1, 1))
        assert kept["w"] is now["w"]  # training goes on with its own
        if rule.hears is not None and number in risks:
            state = dict(rule.hears(state, risks[number]))
    assert rule.shows is not None
    return float(rule.shows(state, now, True)["w"])


# --- a moving average ---


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_ema_is_even_at_first_and_then_moves_by_its_decay(decay: float) -> None:
    draws = torch.Generator().manual_seed(1)
    models = torch.rand(40, generator=draws, dtype=torch.float64).tolist()
    expected = 0.0
    for number, value in enumerate(models, 1):
        part = max(1 - decay, 1 / number)
        expected = (1 - part) * expected + part * value
    assert told(ema(decay), models, {}) == pytest.approx(expected, abs=1e-14)
    if decay == 0:
        assert expected == models[-1]
    if decay == 0.99:
        assert expected == pytest.approx(sum(models) / len(models))


def test_a_run_shows_the_average_and_trains_on_with_the_last() -> None:
    problem = make_problem()
    plain = TrainingConfig(rounds=6, optimizer="adam", learning_rate=0.05)
    given = plain.model_copy(update={"weight_averaging": {"name": "ema", "decay": 0.8}})
    server, alone = problem.server(RECIPES["hgp"], given), problem.server(RECIPES["hgp"], plain)
    average: dict[str, Tensor] = {}
    for number in range(1, 7):
        run_round(server, problem.clients(), number)
        run_round(alone, problem.clients(), number)
        part = max(0.2, 1 / number)
        average = {
            name: value if number == 1 else (1 - part) * average[name] + part * value
            for name, value in alone.parameters.items()
        }
    assert_close(server.parameters, alone.parameters, rtol=0, atol=0)
    assert_close(server.shown(over=False), average, rtol=0, atol=1e-14)


# --- SWAD ---


def published(models: Sequence[float], risks: dict[int, float], converge: int, tolerance: int, ratio: float) -> float:
    """Cha et al., algorithm 1, over evaluations i, on a list of all models of each segment."""
    ends = sorted(risks)
    segments = [models[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    values = [risks[end] for end in ends]
    begins, stops, threshold = None, len(ends) - 1, 0.0
    for i in range(len(ends)):
        window = values[i - converge + 1 : i + 1]
        if begins is None and i + 1 >= converge and window[0] == min(window):
            begins, threshold = i - converge + 1, ratio / converge * sum(window)
        if begins is not None and i - tolerance >= begins and min(values[i - tolerance + 1 : i + 1]) > threshold:
            stops = i - tolerance
            break
    if begins is None:
        return models[-1]
    chosen = [one for segment in segments[begins : stops + 1] for one in segment]
    chosen += models[ends[-1] :] if stops == len(ends) - 1 else []
    return sum(chosen) / len(chosen)


VALLEYS = {
    "ends": [3.0, 2.0, 1.0, 1.1, 1.2, 1.0, 1.3, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0, 3.1],
    "stays": [3.0, 2.0, 1.0, 1.1, 1.2, 1.0, 1.1, 1.0],
    "never begins": [9.0, 8.0, 7.0, 6.0, 5.0],
    "begins at once": [1.0, 1.5, 1.2, 1.1, 1.4],
    "spikes": [2.0, 1.0, 1.2, 1.1, 5.0, 1.0, 5.0, 5.0, 5.0, 5.0, 1.0],
}


@pytest.mark.parametrize(("converge", "tolerance"), [(3, 6), (3, 2), (2, 3), (4, 1)])
@pytest.mark.parametrize("valley", VALLEYS)
@pytest.mark.parametrize("every", [1, 3])
def test_swad_is_algorithm_1(valley: str, converge: int, tolerance: int, every: int) -> None:
    draws = torch.Generator().manual_seed(3)
    risks = {every * place: value for place, value in enumerate(VALLEYS[valley], 1)}
    models = torch.rand(max(risks) + every - 1, generator=draws, dtype=torch.float64).tolist()
    found = told(swad(converge, tolerance, 1.3), models, risks)
    assert found == pytest.approx(published(models, risks, converge, tolerance, 1.3), abs=1e-12)


def test_an_evaluation_that_is_heard_twice_counts_once() -> None:
    rule, like = swad(), {"w": torch.zeros(1)}
    assert rule.aggregate is not None
    assert rule.hears is not None
    _, state = rule.aggregate(dict(rule.init(like)), Answers(like, like, {}, 1.0, 1, 1))
    once = rule.hears(state, 1.0)
    assert rule.hears(once, 1.0) is once


# --- in runs ---

BASE: dict[str, Any] = {
    "model": {"hidden": [6]},
    "recipe": "erm",
    "training": {"rounds": 12, "optimizer": "sgd", "learning_rate": 0.3},
    "evaluation": {"every": 2},
    "checkpoint": {"every": 2},
    "engine": {"name": "inline"},
}
SWAD = {"name": "swad", "converge": 1, "tolerance": 2, "ratio": 1.3}


def config(averaging: Any, **sections: Any) -> Any:
    training = {**BASE["training"], **sections.pop("training", {}), "weight_averaging": averaging}
    return parse({**BASE, **sections, "training": training})


def ran(folder: Path, wanted: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    results = run_job(Job(wanted, folder), Silent())
    return results, load_file(folder / runfolder.MODEL)


@pytest.mark.parametrize("averaging", ["ema", SWAD], ids=["ema", "swad"])
def test_a_killed_run_resumes_to_the_same_bits(averaging: Any, tmp_path: Path) -> None:
    assert_resumes(config(averaging), tmp_path, 7)


def test_what_is_kept_is_what_was_evaluated_last(tmp_path: Path) -> None:
    """SWAD's model is that of the results, and the rounds before are those of a run without it."""
    results, model = ran(tmp_path / "swad", config(SWAD))
    plain, last = ran(tmp_path / "plain", config(None))
    assert results["target"] != plain["target"]
    assert not torch.equal(model["head.weight"], last["head.weight"])
    swads, plains = (runfolder.read_metrics(tmp_path / name) for name in ("swad", "plain"))
    for one, other in zip(swads[:-1], plains[:-1], strict=True):
        assert one["loss"] == other["loss"]
        assert one.get("held_out") == other.get("held_out")
    secure, same = ran(tmp_path / "secure", config(SWAD, privacy={"secure_aggregation": True, "minimum": 2}))
    assert_close(same, model, rtol=0, atol=1e-5)
    assert secure["target"]["target"]["accuracy"] == pytest.approx(results["target"]["target"]["accuracy"], abs=0.01)


@pytest.mark.parametrize(
    ("averaging", "sections", "said"),
    [
        ("emma", {}, "'emma' is no averaging of weights; did you mean 'ema'"),
        ({"name": "ema", "decay": 1}, {}, "decay is 1"),
        ({"name": "swad", "tolerence": 1}, {}, "swad takes no tolerence; did you mean 'tolerance'"),
        ("ema", {"federation": {"schedule": "piggyback"}}, "shows another model than the one that is trained"),
        (
            "swad",
            {"training": {"stop": {"patience": 3}}},
            r"'swad' shows what it made when training ends, and training\.stop",
        ),
        (
            "swad",
            {"privacy": {"protect": "examples", "noise_multiplier": 1.0, "sampling": "whole"}},
            "'swad' goes by the risk of what is held out, which is not sent where privacy.protect is",
        ),
    ],
)
def test_what_it_does_not_go_with_is_refused(averaging: Any, sections: dict[str, Any], said: str) -> None:
    def made() -> Task:
        wanted = config(averaging, **sections)
        return Task(RECIPES["erm"], wanted.training, SEED, wanted.privacy)

    with pytest.raises(FedhaError, match=said):
        made()


def shows_nothing() -> Rule:
    return Rule("blind")


def test_a_rule_of_ones_own_may_show_another_model() -> None:
    given = TrainingConfig(weight_averaging="tests.rules.test_averages:shows_nothing")
    with pytest.raises(FedhaError, match="a rule that shows no model; give it `shows`"):
        _ = Task(RECIPES["erm"], given, SEED).rules
