"""A client's answers to a diagnosis: risks and gradients at heads that a server names, products along directions.

What the server chooses can single out one example, so nobody answers whose contract does not say how often.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedha.client import Client
from fedha.diagnosis.party import Answers, Sizes
from fedha.diagnosis.sample import Sample
from fedha.diagnosis.subject import Part, sampled
from fedha.errors import FedhaError
from fedha.exchange import SIZES, Reply, Request
from fedha.features import Keeping, behind_trunk
from fedha.privacy.contract import Contract

RISKS, GRADIENTS, ACCURACIES, PRODUCTS = "risks", "gradients", "accuracies", "products"


@dataclass
class Looked:
    """A client's features at the model that it was last asked about.

    Attributes:
        state: The model's, by name.
        sample: The features and the head.
    """

    state: Mapping[str, Tensor]
    sample: Sample
    _room: ExitStack = field(default_factory=ExitStack, repr=False)

    def close(self) -> None:
        """Give their place back."""
        self._room.close()


def check_allowed(contract: Contract | None, request: Request) -> None:
    """Refuse a diagnosis that nobody here agreed to, or that would tell more than the run's privacy covers.

    Raises:
        FedhaError: It is.
    """
    privacy = request.task.privacy
    if contract is None:
        raise FedhaError(f"it refuses to answer {request.kind}: it holds no contract, which alone could allow it")
    if privacy.protect != "nothing":
        raise FedhaError(
            f"it refuses to answer {request.kind}: the run has privacy.protect: {privacy.protect}, which does not "
            "cover them"
        )
    if privacy.secure_aggregation:
        raise FedhaError(
            f"it refuses to answer {request.kind}: the run has privacy.secure_aggregation, and these answers are no sum"
        )


def look(client: Client, request: Request, keeping: Keeping, known: Looked | None) -> Looked:
    """A client's features at a request's model; those that are known, where it is the same one.

    Args:
        client: Whose.
        request: Has the model.
        keeping: Where features of a frozen network are kept.
        known: What was looked at last.
    """
    state = {**request.parameters, **request.running}
    if known is not None and _same(known.state, state):
        return known
    if known is not None:
        known.close()
    own, room = client.domain, ExitStack()
    part = Part(own.name, *behind_trunk(client.model, own.train, keeping, own.client_name))
    (sample,) = room.enter_context(sampled([part], state, 2, lambda doing, done, total: None))
    return Looked(state, sample, room)


def answer(client: Client, request: Request, sample: Sample) -> Reply:
    """Answers to all that a request holds, each on its own.

    Raises:
        FedhaError: A head or a direction is of another size than the model's.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for name, at in request.sent.items():
        if name == SIZES:
            numbers |= {f"{SIZES}/{key}": float(value) for key, value in vars(sample.sizes()).items()}
            continue
        if at.shape[1:] != sample.head.shape:
            raise FedhaError(
                f"{request.kind} of shape {tuple(at.shape[1:])} were sent and the head has {tuple(sample.head.shape)}"
            )
        if request.kind == "directions":
            tensors[f"{name}/{PRODUCTS}"] = sample.directions(at.double())
            continue
        found = sample.heads(at.double())
        tensors |= {f"{name}/{key}": getattr(found, key) for key in (RISKS, GRADIENTS, ACCURACIES)}
    return client.reply(tensors, numbers)


def read(reply: Reply, name: str, kind: str, at: Tensor) -> Answers | Tensor:
    """One of the answers of a reply.

    Raises:
        FedhaError: It is missing, or of another shape than what was asked.
    """
    shapes = {RISKS: at.shape[:1], GRADIENTS: at.shape, ACCURACIES: at.shape[:1]}
    shapes = {PRODUCTS: at.shape} if kind == "directions" else shapes
    found = {key: reply.tensors.get(f"{name}/{key}") for key in shapes}
    for key, value in found.items():
        if value is None or value.shape != shapes[key]:
            told = "nothing" if value is None else f"{tuple(value.shape)}"
            raise FedhaError(f"{reply.client_name} answers {told} where {key} of {tuple(shapes[key])} were asked for")
    values = [value.double() for value in found.values() if value is not None]
    return values[0] if kind == "directions" else Answers(*values)


def sizes_in(reply: Reply) -> Sizes:
    """The sizes of features that a reply tells.

    Raises:
        FedhaError: One is missing.
    """
    numbers = {name.removeprefix(f"{SIZES}/"): value for name, value in reply.metrics.items() if name.startswith(SIZES)}
    try:
        return Sizes(**{**numbers, "examples": int(numbers["examples"])})  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise FedhaError(
            f"{reply.client_name} does not tell the sizes of its features; is it of another fedha?"
        ) from error


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value is other[name] or (value.shape == other[name].shape and bool(torch.equal(value, other[name])))
        for name, value in one.items()
    )
