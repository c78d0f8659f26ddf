"""The features of a frozen network: computed once, in memory or on disk, and trained on in the inputs' place."""

from fedha.features.featured import Keeping, behind_trunk, featured, unready
from fedha.features.keys import row_keys
from fedha.features.source import Features, of_features
from fedha.features.store import forget
from fedha.features.trunk import Divided, divided

__all__ = [
    "Divided",
    "Features",
    "Keeping",
    "behind_trunk",
    "divided",
    "featured",
    "forget",
    "of_features",
    "row_keys",
    "unready",
]
