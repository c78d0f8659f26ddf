"""No number depends on how large the pieces are in which a batch goes through the network."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fedha.config import LocalConfig, TrainingConfig
from fedha.recipes import Recipe as Row
from tests.problems import ROWS, make_problem

ROUNDS = 20
WARM = {"weight": 3.0, "warmup_rounds": 6, "warmup_weight": 0.5, "rescale": True}
TRAININGS = {
    "synchronous": TrainingConfig(rounds=ROUNDS, optimizer="adam", learning_rate=0.01, weight_decay=0.01),
    "local": TrainingConfig(
        mode="local", rounds=ROUNDS, weight_decay=0.01, local=LocalConfig(steps=2, batch_size=10, learning_rate=0.02)
    ),
}


def trained(recipe: Row, head: str, training: TrainingConfig, rounds: int = ROUNDS) -> dict[str, torch.Tensor]:
    return make_problem(head).train(recipe, training, rounds)


@pytest.mark.parametrize("mode", TRAININGS)
@pytest.mark.parametrize("head", ["three classes", "one logit", "network"])
@pytest.mark.parametrize("name", ROWS)
def test_training_in_pieces_is_training_in_one(name: str, head: str, mode: str) -> None:
    recipe, training = replace(ROWS[name], **WARM), TRAININGS[mode]
    rounds = ROUNDS if (head, mode) == ("three classes", "synchronous") else 2
    whole = trained(recipe, head, training, rounds)
    for name, value in trained(recipe, head, training.model_copy(update={"chunk": 5}), rounds).items():
        assert_close(value, whole[name], rtol=1e-10, atol=1e-10)
