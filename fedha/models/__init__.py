"""Models: a featurizer and a head."""

from fedha.models.build import build
from fedha.models.gaussian import gaussian
from fedha.models.split import SplitModel, head_matrix, with_bias

__all__ = ["SplitModel", "build", "gaussian", "head_matrix", "with_bias"]
