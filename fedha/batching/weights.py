"""The parameters of a chunk's clients: stacked, or the first layer's as coefficients where that costs less."""

from collections.abc import Sequence

from torch import Tensor

from fedha.batching.chunk import Chunk
from fedha.batching.first_layer import FirstLayer, pays
from fedha.batching.kept import gram_matrices
from fedha.batching.network import Network, forward
from fedha.batching.rows import Batch
from fedha.batching.stacked import StackedParameters
from fedha.batching.updates import Updates
from fedha.exchange import Request
from fedha.optimizers import rate_of
from fedha.penalty import active_terms, loss_divisor
from fedha.schedule import rate_factor


class Weights:
    """Where the clients of a chunk stand while they train."""

    def __init__(
        self, chunk: Chunk, network: Network, request: Request, products: Tensor | None, lengths: Sequence[int]
    ) -> None:
        """Put every client at the global model.

        Args:
            chunk: The clients.
            network: Their model, taken apart.
            request: Of the round.
            products: What `first_products` gives.
            lengths: Rows of each step to come; one step in synchronous mode.
        """
        self._inputs, self._layers, self._first = chunk.inputs, network.featurizer, None
        self._name = self._bias = ""
        place = network.leading_linear()
        if place is not None and products is not None and _worthwhile(chunk, request, lengths):
            name = network.featurizer[place].name
            self._layers, self._name, self._bias = network.featurizer[place + 1 :], f"{name}.weight", f"{name}.bias"
            self._first = _first_layer(chunk, request, self._name, products)
        rest = {name: value for name, value in request.parameters.items() if name != self._name}
        self._stacked = StackedParameters(rest, len(chunk.clients), request.task.training, request.round)

    def features(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch's features, [k, b, D - 1], and the leaves of their graph by parameter name.

        In place of the first layer's weight stands the leaf of its outputs, where it is kept as coefficients.
        """
        leaves = self._stacked.leaves(batch.clients)
        if self._first is None:
            return forward(self._layers, leaves, batch.take(self._inputs)), leaves
        outputs = self._first.outputs(batch)
        rows = outputs + leaves[self._bias][:, None] if self._bias in leaves else outputs
        return forward(self._layers, leaves, rows), {**leaves, self._name: outputs}

    def squared_norms(self, clients: slice) -> Tensor | float:
        """Each client's sum of squares over all its parameters, [k]."""
        rest = self._stacked.squared_norms(clients)
        return rest if self._first is None else rest + self._first.squared_norms(clients)

    def receive(self, batch: Batch, gradients: dict[str, Tensor], decay: float) -> None:
        """Note a batch's derivatives in the leaves of `features` for the next step, to which L2 adds `decay`."""
        if self._first is not None:
            self._first.receive(batch, gradients.pop(self._name))
        self._stacked.receive(batch.clients, gradients, decay)

    def step(self) -> None:
        """Move all clients by what was received."""
        if self._first is not None:
            self._first.step()
        self._stacked.step()

    def write_moves(self, updates: Updates, clients: slice) -> None:
        """Hand over these clients' updates, the global minus the local parameters."""
        self._stacked.write(updates, clients)
        if self._first is not None:
            updates.finite[clients] += self._first.bound()[clients]
            self._first.write(updates, self._name, clients)

    def write_gradients(self, updates: Updates) -> None:
        """Hand over the gradients received."""
        self._stacked.write_gradients(updates)
        if self._first is not None:
            self._first.step()
            updates.finite += self._first.bound()
            self._first.write(updates, self._name, slice(None))


def decay_of(request: Request) -> float:
    """What L2 adds to a gradient, times the parameter: weight_decay multiplies the squared norm in the loss."""
    recipe = request.task.recipe
    divisor = loss_divisor(recipe, request.round, active_terms(recipe, request.averaging_weight))
    return 2 * request.task.training.weight_decay / divisor


def _worthwhile(chunk: Chunk, request: Request, lengths: Sequence[int]) -> bool:
    if request.task.training.mode == "synchronous":
        return True  # one product forward for all clients, and no weights of their own
    examples, width = chunk.inputs.shape[1], chunk.inputs[0, 0].numel()
    return pays(examples, width, len(lengths), max(lengths), request.task.training)


def _first_layer(chunk: Chunk, request: Request, name: str, products: Tensor) -> FirstLayer:
    weight = request.parameters[name]
    training, inputs, decay = request.task.training, chunk.inputs.flatten(2), decay_of(request)
    if training.mode == "synchronous":
        return FirstLayer(weight, inputs, products, None, 1.0, 0.0, decay)
    gram = gram_matrices(chunk.kept, inputs)
    rate = training.local.learning_rate * rate_factor(training, request.round) * rate_of(name, training.rates)
    return FirstLayer(weight, inputs, products, gram, rate, training.local.momentum, decay)
