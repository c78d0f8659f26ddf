"""What is wrong with a request, before anything is computed from it: the sentence names no number of the data."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedha.exchange import Request
from fedha.models.split import SplitModel
from fedha.models.state import state_of
from fedha.privacy.guards import Refusal


def refuse_request(request: Request, model: SplitModel) -> Refusal | None:
    """Refuse a round without number, a share that is none, and a model or references that are not what they must be.

    Args:
        request: What the server sent.
        model: This client's own network, whose parameters say which names and shapes are right.
    """
    if request.round < 1 or not 0 < request.averaging_weight <= 1:
        return Refusal(
            "request", f"the server asked for round {request.round} with a share of {request.averaging_weight:g}"
        )
    state = state_of(model)
    own = {name: value.shape for name, value in (state.trained | state.running).items()}
    told = {name: value.shape for name, value in {**request.parameters, **request.running}.items()}
    if own != told:
        wrong = sorted(name for name in own.keys() | told.keys() if own.get(name) != told.get(name))
        return Refusal(
            "request",
            f"the model that the server sent is not this site's: {', '.join(wrong)} missing, foreign or of another "
            "shape; do both have one config?",
        )
    sent = {"parameter": request.parameters, "reference": request.references, "rule's tensor": request.sent}
    for kind, tensors in (sent | {"buffer": request.running}).items():
        if (name := _not_finite(tensors)) is not None:
            return Refusal("request", f"the {kind} {name} that the server sent has numbers that are not finite")
    return None


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    return next((name for name, value in tensors.items() if not bool(torch.isfinite(value).all())), None)
