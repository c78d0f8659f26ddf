"""What the clients of a sum are asked, as one digest: nobody is summed with others who were asked something else."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from fedha.privacy.secure.packing import digest


def question(tensors: Mapping[str, Tensor], *parts: int | str | bytes) -> bytes:
    """Digest of all that decides a client's answer.

    A malicious server could send one client the model and all others a model whose updates are zero: the sum would be
    that client's. The pair masks are bound to this digest, so then they do not cancel.

    Args:
        tensors: The model and the references, as this client received them.
        parts: Whatever else decides the answer: recipe, training settings, what is measured.

    Returns:
        32 bytes.

    Source:
        Pasquini, Francati and Ateniese, "Eluding secure aggregation in federated learning via model inconsistency",
        CCS 2022, for the attack.
    """
    summary = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        summary.update(digest("tensor", name, str(tensor.dtype), *tensor.shape))
        summary.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest("question", summary.digest(), *parts)
