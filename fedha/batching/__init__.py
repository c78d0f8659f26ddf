"""Many small clients at once: their parameters stacked, each layer one operation for all of them."""

from fedha.batching.answers import answer_evaluate, answer_measure, answer_train
from fedha.batching.limits import refusal

__all__ = ["answer_evaluate", "answer_measure", "answer_train", "refusal"]
