"""Server rules as somebody else writes them, named in configs of the tests as tests.rules_of_others:function."""

import torch

from fedha.rules import Answers, Rule, Step, Work, mean_step


def prox(strength: float = 0.5) -> Rule:
    """FedProx (Li et al., MLSys 2020): each step is also pulled back to the round's global model."""

    def correct(step: Step) -> dict[str, torch.Tensor]:
        return {
            name: value + strength * (step.parameters[name] - step.start[name]) for name, value in step.gradient.items()
        }

    return Rule("prox", correct=correct)


def nova() -> Rule:
    """FedNova (Wang et al., NeurIPS 2020): the mean move of a step, times the mean number of steps."""

    def answer(work: Work) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        own = {name: (start - work.end[name]) / work.steps for name, start in work.start.items()}
        return {
            **{f"move/{name}": value for name, value in own.items()},
            "steps": torch.tensor(work.steps, dtype=torch.float64),
        }, {}

    def aggregate(state: object, answers: Answers) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        rate = answers.rate * answers.extra["steps"]
        moved = {name: value - rate * answers.extra[f"move/{name}"] for name, value in answers.parameters.items()}
        return moved, {}

    return Rule("nova", answer=answer, aggregate=aggregate)


def halved(training: object) -> Rule:
    """FedAvg at half its rate, for both modes."""
    return Rule("halved", rate=0.5)


def drags(strength: float = 0.5) -> Rule:
    """A client's steps are dragged by where its last round went, which it alone remembers."""

    def answer(work: Work) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        return {}, {name: start - work.end[name] for name, start in work.start.items()}

    return Rule(
        "drags",
        init_client=lambda parameters: {name: torch.zeros_like(value) for name, value in parameters.items()},
        correct=lambda step: {name: value + strength * step.state[name] for name, value in step.gradient.items()},
        answer=answer,
    )


AVERAGE = Rule("average")
NUMBER = 3


def _forgets(state: object, answers: Answers) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    parameters, _ = mean_step({}, answers)
    return {name: value for name, value in parameters.items() if "head" not in name}, {}


def forgetful() -> Rule:
    return Rule("forgetful", aggregate=_forgets)


def divides() -> Rule:
    return Rule("divides", correct=lambda step: {name: value / 0 for name, value in [("w", 1)]})


def counts() -> Rule:
    return Rule("counts", answer=lambda work: ({"steps": torch.tensor(work.steps)}, {}))


def loses() -> Rule:
    """What it remembers is gone after a round."""
    return Rule("loses", init=lambda parameters: parameters, aggregate=lambda state, answers: mean_step({}, answers))


def overwrites() -> Rule:
    """Writes into the parameters that it is given."""

    def aggregate(state: object, answers: Answers) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        return {name: value.sub_(answers.update[name]) for name, value in answers.parameters.items()}, {}

    return Rule("overwrites", aggregate=aggregate)


def fails() -> Rule:
    raise KeyError("strength")


def no_rule() -> int:
    return 3
