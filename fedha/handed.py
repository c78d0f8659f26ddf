"""Objects that a program hands over, for as long as its process lives: known by a digest, which is what is recorded.

Nothing is pickled. Another process has none of them; who goes on with such a run hands the same object over again.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fedha.errors import FedhaError

NAME = "objects"  # what a config says in the place of a name

_objects: dict[str, Any] = {}


def hand_over(digest: str, value: Any) -> None:
    """Make an object known to this process by its digest."""
    _objects[digest] = value


def handed_over(key: str, digest: object) -> Any:
    """The object with this digest.

    Args:
        key: The config's, such as ``data``.
        digest: As the config records it.

    Raises:
        FedhaError: Nobody has handed it over in this process.
    """
    if str(digest) not in _objects:
        raise FedhaError(
            f"the {key} of this run were objects of a program, known by the digest {str(digest)[:12]}, which this "
            "process does not have; hand them over again (fedha.simulate(…, resume=True), fedha.load(RUN, model=…)), "
            "or let the config name a function: package.module:function"
        )
    return _objects[str(digest)]


def digest_of(parts: Iterable[tuple[str, Tensor]]) -> str:
    """A digest of named tensors: names, shapes, types and every byte."""
    total = hashlib.sha256()
    for name, value in parts:
        total.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]
