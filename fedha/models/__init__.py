"""Models: a featurizer and a head."""

from fedha.models.build import build
from fedha.models.split import SplitModel, head_matrix, with_bias

__all__ = ["SplitModel", "build", "head_matrix", "with_bias"]
