"""The learning rate over the rounds."""

import math

from fedha.config import TrainingConfig


def rate_factor(training: TrainingConfig, round: int) -> float:
    """What the learning rate is multiplied by in a round (from 1): 1, or falling to (almost) 0 at the last round."""
    done = (round - 1) / training.rounds
    if training.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if training.schedule == "linear":
        return 1 - done
    return 1.0
