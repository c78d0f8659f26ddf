"""The loss of an example as DP-SGD needs it: known from the example's own features and logits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.func import functional_call

from fedha.inputs import Inputs, arguments
from fedha.models.split import SplitModel


@dataclass(frozen=True)
class Loss:
    """What each example loses, whatever the others are.

    Attributes:
        model: Its layers treat each example alone. Its own parameters are not read.
        of: Maps features [n, D - 1], logits [n, C] and labels [n] to the losses, [n], in nats; each of its own row
            alone. Parameters act through features and logits only.
    """

    model: SplitModel
    of: Callable[[Tensor, Tensor, Tensor], Tensor]

    def each(self, parameters: Mapping[str, Tensor], inputs: Inputs, labels: Tensor) -> Tensor:
        """Losses at these parameters, by name: [n]."""
        features = functional_call(self.model.featurizer, part(parameters, "featurizer."), *arguments(inputs))
        logits = functional_call(self.model.head, part(parameters, "head."), (features,))
        return self.of(features, logits, labels)

    def over(self, divisor: float) -> "Loss":
        """The same, divided by a public number."""
        return Loss(self.model, lambda features, logits, labels: self.of(features, logits, labels) / divisor)


def part(parameters: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those below a prefix such as ``head.``, without it."""
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
