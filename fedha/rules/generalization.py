"""FedDG-GA: clients for whom the global model is worse than their own one was count more.

A client's gap is the risk of its examples with the model that it is sent, less that with the model that its last round
ended with. The weights, equal at first, move by the gaps over the largest of them, times ``step / E``, E the clients of
the round; they are cut to [0, 1] and made to sum to what they did. The step falls linearly to zero over the rounds.

What is averaged in a round r follows the gaps of the models of round r - 1, which is when the paper adjusts too: there
the clients are asked in between. There gaps are of examples that are held out; here of those that are trained on, so
that what selects a round is no part of its training. Who took no part in the last round has the gap of its last one.

Source:
    Zhang, Xu, Yao, Zhao, Zhang, Wang, Zhang, "Federated domain generalization with generalization adjustment" (CVPR
    2023), with the normalisation of the authors' code, whose third is 1 / E of their three domains.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from fedha.rules.rule import Cohort, Named, Rule, Work

if TYPE_CHECKING:
    from fedha.config import TrainingConfig

_ROUNDS = "rounds"  # that are done


def feddg_ga(training: "TrainingConfig", step: Annotated[float, Field(ge=0)] = 0.2) -> Rule:
    """The rule.

    Args:
        training: Its rounds, over which the step falls.
        step: At first; the authors' code has 0.2.
    """

    def init(parameters: Named) -> Named:
        return {_ROUNDS: torch.zeros((), dtype=torch.float64)}

    def init_client(parameters: Named) -> Named:
        return {"risk": torch.zeros((), dtype=torch.float64), "known": torch.zeros((), dtype=torch.float64)}

    def answer(work: Work) -> tuple[Named, Named]:
        before = work.state
        told = {"gap": (work.risks["start"] - before["risk"]) * before["known"], "known": before["known"]}
        kept = {"risk": torch.full_like(before["risk"], work.risks["end"]), "known": torch.ones_like(before["known"])}
        return told, kept

    def weigh(state: Named, cohort: Cohort) -> tuple[Mapping[int, float], Named]:
        done = float(state[_ROUNDS])
        gaps = {client: float(told["gap"]) for client, told in cohort.told.items() if told["known"] > 0}
        even = 1 / len(cohort.weights)
        before = {client: float(state.get(f"weight/{client}", even)) for client in cohort.weights}
        after = _adjusted(before, gaps, step * max(0.0, 1 - done / training.rounds))
        kept = {f"weight/{client}": torch.tensor(value, dtype=torch.float64) for client, value in after.items()}
        total = sum(after.values())
        weights = {client: value / total for client, value in after.items()}
        return weights, {**state, **kept, _ROUNDS: state[_ROUNDS] + 1}

    return Rule(
        "feddg_ga",
        ("local",),
        init=init,
        init_client=init_client,
        answer=answer,
        weigh=weigh,
        measures=("start", "end"),
        one_rate=False,
    )


def _adjusted(before: Mapping[int, float], gaps: Mapping[int, float], step: float) -> dict[int, float]:
    """Weights after a step along the gaps; as before where nobody has a gap."""
    largest = max((abs(gap) for gap in gaps.values()), default=0.0)
    if largest == 0:
        return dict(before)
    moved = {
        client: min(1.0, max(0.0, value + gaps.get(client, 0.0) / largest * step / len(before)))
        for client, value in before.items()
    }
    total, wanted = sum(moved.values()), sum(before.values())
    if total == 0:
        return dict(before)
    return {client: value * wanted / total for client, value in moved.items()}
