"""Statistics as somebody else would write them, outside fedha."""

import torch

from fedha import Mean, Statistic


def confidence() -> Statistic:
    """Mean and mean square of the probabilities: their variance over the examples, by class."""
    return Statistic(
        "confidence",
        (
            Mean("probability", lambda piece: torch.softmax(piece.logits, 1).mean(0)),
            Mean("squared_probability", lambda piece: torch.softmax(piece.logits, 1).square().mean(0)),
        ),
        lambda means, examples: means["squared_probability"] - means["probability"].square(),
        summary="variance of the probabilities",
    )


def logit_mean() -> Statistic:
    """The mean logits, with each example's term as an outer product, so that it can be clipped."""
    return Statistic(
        "logit_mean",
        (Mean("logit_mean", lambda piece: piece.logits.mean(0), outer=lambda at: (at.ones, at.logits)),),
        lambda means, examples: means["logit_mean"].reshape(-1),
    )


def fails() -> Statistic:
    """Looks for what is not there."""
    return Statistic("fails", (Mean("fails", lambda piece: {}["logits"]),))


def spread() -> Statistic:
    """No mean over examples, though it says so."""
    return Statistic("spread", (Mean("spread", lambda piece: piece.logits.var(0, correction=0)),))
