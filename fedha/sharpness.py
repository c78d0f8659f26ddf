"""Sharpness-aware minimization: the gradient is taken where the loss of the batch is highest, to first order, nearby.

With g the gradient at w, a step is along the gradient at ``w + radius g / |g|``. In a federation each client climbs its
own loss (FedSAM); in synchronous mode too, where the published method climbs that of all domains together.

Source:
    Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-aware minimization for efficiently improving generalization" (ICLR
    2021); Qu, Li, Duan, Liu, Tang, Lu, "Generalized federated learning via sharpness aware minimization" (ICML 2022).
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedha.pieces import Batch

_LEAST = 1e-12  # a gradient of zero climbs nowhere


def climbed(batch: Batch, gradient: Mapping[str, Tensor], radius: float) -> Batch:
    """A batch at the parameters that are `radius` up its loss, which are leaves.

    Args:
        batch: Its rows, draws and running statistics stay.
        gradient: Of its loss, by parameter.
        radius: Of the step up, over all parameters together.
    """
    norms = torch.stack([torch.linalg.vector_norm(value) for value in gradient.values()])
    scale = radius / (torch.linalg.vector_norm(norms) + _LEAST)
    up = {
        name: value.detach().add(gradient[name] * scale.to(value.dtype)).requires_grad_()
        for name, value in batch.parameters.items()
    }
    return replace(batch, parameters=up, trained=True)
