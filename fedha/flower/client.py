"""fedha's ClientApp: the client's work behind three message types."""

from collections.abc import Callable
from dataclasses import replace

import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedha import numerics
from fedha.data.domain import Domain, Examples
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request
from fedha.flower.wire import pack_reply, pack_tensors, unpack_request, unpack_tensors
from fedha.models.split import SplitModel
from fedha.training import Client, answer_measure, answer_train, evaluate

_STATE = "fedha-state"


def client_app(
    model: Callable[[Context], SplitModel],
    domain: Callable[[Context], Domain],
    *,
    threads: int = 1,
    device: str = "cpu",
) -> ClientApp:
    """A ClientApp that answers `HessianAlignment`.

    Args:
        model: Makes the network; its initial weights are not used, the server sends the parameters.
        domain: Makes this client's data; called once a process and node.
        threads: torch threads; a sum's bits depend on it.
        device: Where to compute, such as ``cpu`` or ``cuda``.

    Returns:
        An app with ``query.measure``, ``train`` and ``evaluate``. The node config must give ``partition-id``, the
        client's place in client order, from 0.
    """
    app = ClientApp()
    clients: dict[tuple[int, int], Client] = {}

    def answer(work: Callable[[Client, Request], Reply], message: Message, context: Context) -> Message:
        numerics.configure(threads)
        key = (context.run_id, context.node_id)
        if key not in clients:
            _check_place(context)
            clients[key] = _make_client(model(context), domain(context), context, device)
        client = clients[key]
        client.state = unpack_tensors(context.state.array_records.get(_STATE, ArrayRecord()), device)
        reply = work(client, unpack_request(message.content, device))
        if client.state:
            context.state[_STATE] = pack_tensors(client.state)
        return Message(pack_reply(reply), reply_to=message)

    @app.query("measure")
    def measure(message: Message, context: Context) -> Message:
        return answer(answer_measure, message, context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(answer_train, message, context)

    @app.evaluate()
    def evaluate_parts(message: Message, context: Context) -> Message:
        return answer(_answer_evaluate, message, context)

    return app


def save_state(context: Context) -> ArrayRecord | None:
    """What a node must remember for a run to resume: its moving averages, or None."""
    return context.state.array_records.get(_STATE)


def restore_state(state: ArrayRecord | None) -> RecordDict:
    """The context state of a node that `save_state` saw."""
    return RecordDict() if state is None else RecordDict({_STATE: state})


def _answer_evaluate(client: Client, request: Request) -> Reply:
    numbers = {}
    for part in request.measure:
        examples: Examples = getattr(client.domain, part)
        for name, value in evaluate(client.model, request.parameters, examples).items():
            numbers[f"{part}/{name}"] = value
    return Reply(client.domain.name, client.index, len(client.domain.train), {}, numbers)


def _check_place(context: Context) -> None:
    if "partition-id" not in context.node_config:
        raise FedhaError(
            "the node config has no partition-id; start the SuperNode with "
            "--node-config 'partition-id=0' (its place in client order)"
        )


def _make_client(model: SplitModel, domain: Domain, context: Context, device: str) -> Client:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats and module.training:
            raise FedhaError(
                f"module {name!r} keeps running statistics, which clients would not share; use GroupNorm, "
                "or freeze it with .eval()"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise FedhaError(
                f"module {name!r} draws from torch's global generator, so that no run could be repeated and statistics "
                "would be of another model than is trained; take it out, or switch it off with .eval()"
            )
    kind = next(model.parameters())
    train, held_out = (
        Examples(part.inputs.to(device, kind.dtype), part.labels.to(device)) for part in (domain.train, domain.held_out)
    )
    moved = replace(domain, train=train, held_out=held_out)
    return Client(int(context.node_config["partition-id"]), moved, model.to(torch.device(device)))
