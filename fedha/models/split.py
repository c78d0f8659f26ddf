"""A model in two parts: the featurizer, and the head that the statistics speak of."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fedha.arguments import check_argument
from fedha.errors import FedhaError
from fedha.inputs import Inputs, arguments

BatchNorm = Literal["frozen", "averaged", "local"]


class SplitModel(nn.Module):
    """Any featurizer and any head; bring your own network as ``SplitModel(backbone, nn.Linear(512, 10))``.

    Its modes are torch's: ``.train()`` is how it is trained, and a part that was put into ``.eval()`` stays so (a
    frozen backbone's dropout). Parameters that take no gradient are never trained (`fedha.models.state`).

    Attributes:
        featurizer: Maps inputs [n, ...] to features [n, D - 1].
        head: Maps features to logits [n, C]. An `nn.Linear` with a bias gets the closed forms, others torch.func.
        batch_norm: What becomes of running statistics. frozen: they stay as they came; their layers are in evaluation
            mode whatever `train` says, weight and bias are trained as others are. averaged: training uses each batch's
            own and moves them, the server averages them. local: likewise, but they and the layers' weight and bias
            stay with each client (FedBN, Li et al., ICLR 2021); the server's model has their mean.
        remarks: What whoever trains it should know of how it was made, a sentence each.
    """

    def __init__(self, featurizer: nn.Module, head: nn.Module, *, batch_norm: BatchNorm = "frozen") -> None:
        super().__init__()
        for name, part in (("featurizer", featurizer), ("head", head)):
            check_argument("SplitModel", name, part, nn.Module, "an nn.Module")
        self.featurizer = featurizer
        self.head = head
        self.remarks: tuple[str, ...] = ()
        self._held: list[nn.Module] = []  # layers that were in training mode before they were put out of it
        self._refuse_shared()
        self.set_batch_norm(batch_norm)

    @classmethod
    def of(cls, network: nn.Module, head: str, *, batch_norm: BatchNorm = "frozen") -> "SplitModel":
        """A network as people have them, split where its last layer begins.

        Args:
            network: Whose forward ends with its head, such as torchvision's or timm's; it is not changed.
            head: The head's name in the network, such as ``fc``, ``classifier`` or ``heads.head``.
            batch_norm: As in the constructor.

        Returns:
            The head, and a copy of the network that passes on what the head was given.

        Raises:
            FedhaError: There is no such layer, or the rest of the network shares its weights.
        """
        check_argument("SplitModel.of", "network", network, nn.Module, "a network, an nn.Module that was made")
        check_argument("SplitModel.of", "head", head, str if head else (), "the name of its last layer, such as 'fc'")
        body = copy.deepcopy(network)
        owner, _, name = head.rpartition(".")
        try:
            parent = body.get_submodule(owner)
            last = parent.get_submodule(name)
            if not name:  # "block." names no layer, though torch takes it for the block
                raise AttributeError(head)
        except AttributeError as error:
            layers = ", ".join(name for name, _ in network.named_children()) or "none, for it is a single one"
            raise FedhaError(f"the network has no layer {head!r} to be its head; its layers are {layers}") from error
        setattr(parent, name, HeadPlace(head))
        return cls(body, last, batch_norm=batch_norm)

    def set_batch_norm(self, policy: BatchNorm) -> None:
        """Choose what becomes of running statistics.

        Raises:
            FedhaError: There is no such choice.
        """
        if policy not in get_args(BatchNorm):
            raise FedhaError(f"batch_norm is {policy!r}; take {', '.join(get_args(BatchNorm))}")
        self.batch_norm = policy
        for module in self._held if policy != "frozen" else ():
            module.training = self.training
        self._hold()

    def train(self, mode: bool = True) -> "SplitModel":
        """Torch's, but for layers whose running statistics are frozen."""
        super().train(mode)
        self._hold()
        return self

    def _hold(self) -> None:
        """Put layers with running statistics into evaluation mode, where these are frozen."""
        kept = [one for one in self.modules() if isinstance(one, nn.modules.batchnorm._NormBase)]
        if self.batch_norm == "frozen":
            for module in kept:
                if module.running_mean is not None and module.training:
                    module.training = False
                    self._held.append(module)

    def _refuse_shared(self) -> None:
        """Refuse weights, or buffers, that are of the featurizer and of the head."""
        mine = {id(value): name for name, value in self.featurizer.state_dict(keep_vars=True).items()}
        for name, value in self.head.state_dict(keep_vars=True).items():
            if id(value) in mine:
                raise FedhaError(
                    f"the featurizer and the head share a layer: 'featurizer.{mine[id(value)]}' and 'head.{name}' are "
                    "one tensor, and a statistic of the head would be one of the featurizer too; give each its own "
                    "(copy.deepcopy), or split the network elsewhere"
                )

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits, [n, C]; several inputs, in a tuple or by name, are so many arguments of the featurizer."""
        by_place, by_name = arguments(inputs)
        logits: Tensor = self.head(self.featurizer(*by_place, **by_name))
        return logits


class HeadPlace(nn.Identity):
    """Stands where a network's head was: what comes here are the features, and the network must end with them.

    Args:
        name: The head's, in the network.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


@contextmanager
def ending_with_head(featurizer: nn.Module) -> Iterator[None]:
    """Look whether a network ended with the head that was taken out of it, by one call in the block.

    Whatever it does with the head's answer (a softmax, a second use) would come before the head now, which is another
    network. In the block features are made-up numbers, which must come out as they are.

    Args:
        featurizer: Of `SplitModel.of`; others are left alone.

    Raises:
        FedhaError: It does not end there.
    """
    made: list[Tensor] = []

    def mark(place: HeadPlace, given: object, features: object) -> object:
        if not isinstance(features, Tensor):
            return features
        numbers = torch.arange(features.numel(), device=features.device) % 101 + 1  # exact in any precision
        made.append(numbers.view(features.shape).to(features))
        return made[-1]

    def look(whole: nn.Module, given: object, features: object) -> None:
        some = features.flatten() if isinstance(features, Tensor) else None
        if some is not None and len(made) == 1 and torch.equal(some, made[0].flatten().to(some.dtype)):
            return
        does = "works on what it gives" if len(made) == 1 else "uses it more than once" if made else "does not use it"
        raise FedhaError(
            f"the network does not end with its head {places[0].name!r}: it {does}, so that splitting it there makes "
            "another network; name its last layer, and let forward return what that gives (logits)"
        )

    places = [one for one in featurizer.modules() if isinstance(one, HeadPlace)]
    handles = [one.register_forward_hook(mark) for one in places]
    handles += [featurizer.register_forward_hook(look)] if places else []
    try:
        yield
    finally:
        for one in handles:
            one.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Have a network in evaluation mode; afterwards each of its layers is in the mode that it was in."""
    before = [module for module in model.modules() if module.training]
    for module in before:
        module.training = False
    try:
        yield
    finally:
        for module in before:
            module.training = True


class MixedPrecision(nn.Module):
    """A featurizer whose products are computed in bfloat16; its parameters and the features it gives keep theirs.

    The statistics behind it are then of the parameters' precision, whatever the network in front rounds to.

    Args:
        featurizer: With float32 parameters.
    """

    def __init__(self, featurizer: nn.Module) -> None:
        super().__init__()
        self.full = featurizer

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Features, [n, D - 1], in the precision of the parameters."""
        some = next(iter((*inputs, *named.values())))
        like = next(self.full.parameters(), some if some.is_floating_point() else torch.empty(0))
        # a "meta" tensor has a shape and no numbers: nothing to round
        kind = some.device.type
        with nullcontext() if kind == "meta" else torch.autocast(kind, dtype=torch.bfloat16):
            features: Tensor = self.full(*inputs, **named)
        return features.to(like.dtype)


def plain_name(name: str) -> str:
    """A part's name as it would be in float32: below `MixedPrecision` it is one name deeper."""
    return name.replace(".full.", ".", 1)


def with_bias(features: Tensor) -> Tensor:
    """Append the column of ones that stands for the bias: [n, D - 1] to [n, D]."""
    return torch.cat([features, features.new_ones(len(features), 1)], 1)


def head_matrix(weight: Tensor, bias: Tensor) -> Tensor:
    """A linear head as one matrix, bias in the last column: [C, D]."""
    return torch.cat([weight, bias[:, None]], 1)


def whole_head(model: SplitModel, parameters: Mapping[str, Tensor]) -> Tensor:
    """A model's linear head with a bias, [C, D], at these parameters; those left out are the model's own."""
    own = {name: parameters.get(f"head.{name}", value.detach()) for name, value in model.head.named_parameters()}
    return head_matrix(own["weight"], own["bias"])
