"""The features of a frozen network: computed once, in memory or on disk, and trained on in the inputs' place."""

from fedha.features.featured import Keeping, behind_trunk, featured, unready
from fedha.features.keys import row_keys
from fedha.features.store import forget
from fedha.features.trunk import divided

__all__ = [
    "Keeping",
    "behind_trunk",
    "divided",
    "featured",
    "forget",
    "row_keys",
    "unready",
]
