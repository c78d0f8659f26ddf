"""How good a network is on a domain: the metrics, what they are made of, and which of them chooses a round."""

from fedha.metrics.metric import Metric
from fedha.metrics.table import known, metric

__all__ = ["Metric", "known", "metric"]
