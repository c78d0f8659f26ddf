"""Apple's pfl-research: federated averaging on its SimulatedBackend, one process, after its own PyTorch example.

    python -m sides.pfl_research --data FOLDER --cohort N

Its metrics stay off (it evaluates every k-th round only), and its in-memory data set deals the same minibatches in the
same order each time; both are in its favour. Needs `pfl`, see benchmarks/README.md.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from sides import federation
from sides.federation import BATCH, EXAMPLES, RATE
from sides.gate import Gate

ENDLESS = 10**9


class Network(nn.Module):
    """The benchmark's network with the two methods that pfl asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = federation.network()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self(inputs), labels)

    def metrics(self, inputs: Tensor, labels: Tensor) -> dict[str, Weighted]:
        with torch.no_grad():
            total = nn.functional.cross_entropy(self(inputs), labels, reduction="sum")
        return {"loss": Weighted(float(total), len(labels))}


class Rounds(TrainingProcessCallback[Any]):
    """Times each central iteration and stops when no more are wanted."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._begun = gate, 0.0

    def on_train_begin(self, *, model: Any) -> Metrics:
        self._gate.wants_round()
        self._begun = time.perf_counter()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self._gate.passed(time.perf_counter() - self._begun)
        more = self._gate.wants_round()
        self._begun = time.perf_counter()
        return not more, Metrics()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cohort", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    numpy.random.seed(0)
    gate, network = Gate(), Network()
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))
    inputs, labels = federation.read(given.data)

    def client(place: int) -> PyTorchTensorDataset:
        rows = slice(place * EXAMPLES, (place + 1) * EXAMPLES)
        return PyTorchTensorDataset((inputs[rows], labels[rows]), user_id=str(place))

    clients = FederatedDataset(client, get_user_sampler("random", list(range(len(labels) // EXAMPLES))))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=ENDLESS,
            evaluation_frequency=ENDLESS,
            train_cohort_size=given.cohort,
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=clients, val_data=clients),
        model,
        NNTrainHyperParams(local_batch_size=BATCH, local_num_epochs=1, local_learning_rate=RATE),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[Rounds(gate)],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    main()
