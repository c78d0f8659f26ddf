"""A model in two parts: the featurizer, and the head that the statistics speak of."""

import copy
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from fedha.arguments import check_argument
from fedha.errors import FedhaError
from fedha.inputs import Inputs, arguments


class SplitModel(nn.Module):
    """Any featurizer and any head; bring your own network as ``SplitModel(backbone, nn.Linear(512, 10))``.

    Attributes:
        featurizer: Maps inputs [n, ...] to features [n, D - 1].
        head: Maps features to logits [n, C]. An `nn.Linear` with a bias gets the closed forms, others torch.func.
    """

    def __init__(self, featurizer: nn.Module, head: nn.Module) -> None:
        super().__init__()
        for name, part in (("featurizer", featurizer), ("head", head)):
            check_argument("SplitModel", name, part, nn.Module, "an nn.Module")
        self.featurizer = featurizer
        self.head = head

    @classmethod
    def of(cls, network: nn.Module, head: str) -> "SplitModel":
        """A network as people have them, split where its last layer begins.

        Args:
            network: Whose forward ends with its head, such as torchvision's or timm's; it is not changed.
            head: The head's name in the network, such as ``fc``, ``classifier`` or ``heads.head``.

        Returns:
            The head, and a copy of the network that passes on what the head was given.

        Raises:
            FedhaError: There is no such layer.
        """
        check_argument("SplitModel.of", "network", network, nn.Module, "a network, an nn.Module that was made")
        check_argument("SplitModel.of", "head", head or None, str, "the name of its last layer, such as 'fc'")
        body = copy.deepcopy(network)
        owner, _, name = head.rpartition(".")
        try:
            parent = body.get_submodule(owner)
            last = parent.get_submodule(name)
        except AttributeError as error:
            layers = ", ".join(name for name, _ in network.named_children())
            raise FedhaError(f"the network has no layer {head!r} to be its head; its layers are {layers}") from error
        setattr(parent, name, nn.Identity())
        return cls(body, last)

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits, [n, C]; several inputs, in a tuple or by name, are so many arguments of the featurizer."""
        by_place, by_name = arguments(inputs)
        logits: Tensor = self.head(self.featurizer(*by_place, **by_name))
        return logits


class MixedPrecision(nn.Module):
    """A featurizer whose products are computed in bfloat16; its parameters and the features it gives keep theirs.

    The statistics behind it are then of the parameters' precision, whatever the network in front rounds to.

    Args:
        featurizer: With float32 parameters.
    """

    def __init__(self, featurizer: nn.Module) -> None:
        super().__init__()
        self.full = featurizer

    def forward(self, inputs: Tensor) -> Tensor:
        """Features, [n, D - 1], in the precision of the inputs."""
        kind = inputs.device.type
        # a "meta" tensor has a shape and no numbers: nothing to round
        with nullcontext() if kind == "meta" else torch.autocast(kind, dtype=torch.bfloat16):
            features: Tensor = self.full(inputs)
        return features.to(inputs.dtype)


def with_bias(features: Tensor) -> Tensor:
    """Append the column of ones that stands for the bias: [n, D - 1] to [n, D]."""
    return torch.cat([features, features.new_ones(len(features), 1)], 1)


def head_matrix(weight: Tensor, bias: Tensor) -> Tensor:
    """A linear head as one matrix, bias in the last column: [C, D]."""
    return torch.cat([weight, bias[:, None]], 1)
