"""SWAD: the mean of all models of the valley of the held-out risk is kept in the end.

The models between two evaluations are a segment, of which the mean is known. The valley begins at the first evaluation
whose risk is the lowest of the next `converge` ones, itself included, and ends before the last `tolerance` ones once
all of these are above `ratio` times the mean risk of the first. Every model of its segments counts alike, those after
the last evaluation too where it has not ended; where no valley has begun, the last model is kept. While training is
under way, the model that is trained is evaluated; at the run's end, the mean is.

The authors' code gives every segment the same weight and takes some of them twice; this is the paper's algorithm. A
round is a step in synchronous mode, as there; in local mode the global models of the rounds are averaged.

Source:
    Cha, Chun, Lee, Cho, Park, Lee, Park, "SWAD: Domain generalization by seeking flat minima" (NeurIPS 2021), algorithm
    1, with its N_s, N_e and r.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedha.rules.rule import Answers, Named, Rule

_Count = Annotated[int, Field(ge=1)]

# Numbers of the state: models in the open segment; evaluations so far; the valley's first one, from 1 (0: none yet);
# its threshold; the last evaluation whose segment is in the mean; models in that; whether the valley has ended.
_NUMBERS = ("open", "evaluations", "begins", "threshold", "taken", "models", "ended")


def swad(converge: _Count = 3, tolerance: _Count = 6, ratio: Annotated[float, Field(ge=1)] = 1.3) -> Rule:
    """The rule.

    Args:
        converge: The paper's N_s, in evaluations.
        tolerance: The paper's N_e.
        ratio: The paper's r; 1.2 for VLCS there.
    """
    kept = max(converge, tolerance + 1)

    def init(parameters: Named) -> Named:
        state = {name: torch.zeros((), dtype=torch.float64) for name in _NUMBERS}
        state |= {"risks": torch.zeros(kept, dtype=torch.float64), "sizes": torch.zeros(kept, dtype=torch.float64)}
        for name, value in parameters.items():
            state |= {f"open/{name}": torch.zeros_like(value), f"mean/{name}": torch.zeros_like(value)}
            state[f"segments/{name}"] = value.new_zeros(kept, *value.shape)
        return state

    def aggregate(state: Named, answers: Answers) -> tuple[Named, Named]:
        if float(state["ended"]):
            return answers.parameters, state
        count = state["open"] + 1
        means = {
            f"open/{name}": state[f"open/{name}"].lerp(value, 1 / float(count))
            for name, value in answers.parameters.items()
        }
        return answers.parameters, {**state, **means, "open": count}

    def hears(state: Named, risk: float) -> Named:
        if float(state["ended"]) or not float(state["open"]):
            return state
        state = _closed(state, risk)
        done = int(state["evaluations"])
        risks = state["risks"]  # the last one last
        if not float(state["begins"]) and done >= converge:
            window = risks[-converge:]
            if bool(window[0] <= window.min()):
                begins = done - converge + 1
                numbers = {"begins": begins, "taken": begins - 1, "threshold": ratio * float(window.mean())}
                state = {**state, **_numbers(numbers)}
        last = done - tolerance  # before what the end is looked for in
        if float(state["begins"]) and last >= int(state["begins"]):
            ended = bool(risks[-tolerance:].min() > state["threshold"])
            state = {**_taken(state, last), **_numbers({"ended": float(ended)})}
        return state

    def shows(state: Named, parameters: Named, over: bool) -> Named:
        if not over or not float(state["begins"]):
            return parameters
        if float(state["ended"]):
            return {name: state[f"mean/{name}"] for name in parameters}
        whole = _taken(state, int(state["evaluations"]))
        part = float(whole["open"] / (whole["models"] + whole["open"]))
        return {name: whole[f"mean/{name}"].lerp(whole[f"open/{name}"], part) for name in parameters}

    return Rule("swad", init=init, aggregate=aggregate, shows=shows, hears=hears)


def _closed(state: Named, risk: float) -> dict[str, Tensor]:
    """The open segment joins the others, of which the oldest goes."""
    closed = dict(state)
    for name, value in state.items():
        if name.startswith("segments/"):
            own = state[f"open/{name.removeprefix('segments/')}"]
            closed[name] = torch.cat([value[1:], own[None]])
            closed[f"open/{name.removeprefix('segments/')}"] = torch.zeros_like(own)
    for name, number in (("sizes", float(state["open"])), ("risks", risk)):
        closed[name] = torch.cat([state[name][1:], state[name].new_tensor([number])])
    return {**closed, "open": torch.zeros_like(state["open"]), "evaluations": state["evaluations"] + 1}


def _taken(state: Named, upto: int) -> dict[str, Tensor]:
    """The segments after the last one that is in the mean, up to that of an evaluation, join it."""
    after, done = dict(state), int(state["evaluations"])
    for number in range(int(state["taken"]) + 1, upto + 1):
        place = number - done - 1  # from the end
        size = float(state["sizes"][place])
        models = after["models"] + size
        part = size / float(models)
        for name, value in state.items():
            if name.startswith("segments/"):
                own = f"mean/{name.removeprefix('segments/')}"
                after[own] = after[own].lerp(value[place], part)
        after |= {"models": models, "taken": torch.full_like(models, number)}
    return after


def _numbers(found: Mapping[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(float(value), dtype=torch.float64) for name, value in found.items()}
