"""Which reconstruction belongs to which original: a batch's gradient does not know the order."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedha.audit.scores import psnr


def matched(originals: Tensor, reconstructions: Tensor, value_range: float) -> Tensor:
    """The reconstructions in the order of the originals that has the highest mean PSNR.

    Args:
        originals: [n, ...].
        reconstructions: Of that shape.
        value_range: Of the values.
    """
    costs = [[-psnr(one, other, value_range) for other in reconstructions] for one in originals]
    _, order = linear_sum_assignment(costs)
    return reconstructions[torch.as_tensor(order)]
