"""When clients are better answered one by one."""

from collections.abc import Sequence

import torch

from fedha.batching import shared
from fedha.batching.chunk import budget
from fedha.batching.memory import multiplications, training_bytes
from fedha.batching.network import beyond_examples, take_apart
from fedha.exchange import Request
from fedha.models.random_layers import random_parts
from fedha.models.split import SplitModel
from fedha.models.state import mixing_layers, moving_layers, state_of, trained_parameters
from fedha.optimizers import by_entry
from fedha.rules.table import named_rule
from fedha.schedule import counts_steps
from fedha.training import Holder

# Multiplications of one client's step, forward. From here on a step fills a core, or a GPU, by itself.
_LARGE = {"cpu": 2**24, "cuda": 2**31}


def refusal(clients: Sequence[Holder], request: Request) -> str | None:
    """Why these clients cannot, or should not, be answered together.

    Args:
        clients: Of one worker.
        request: Of an exchange; only its task, parameters and averaging weight are read, and whether it is additive.

    Returns:
        A phrase for a log, after "one by one: "; None where they are answered together.
    """
    if len(clients) < 2:
        return f"{len(clients)} client is nothing to put together"
    reason = _different(clients, request) or _unsuited(clients, request)
    if reason is not None or shared.serves(clients, request):
        return reason
    return _stacked(clients, request) or _large(clients, request)


def _different(clients: Sequence[Holder], request: Request) -> str | None:
    first = clients[0]
    for other in clients[1:]:
        if other.model is not first.model and not _alike(first.model, other.model):
            return f"clients {first.domain.client_name!r} and {other.domain.client_name!r} have different models"
    kinds = {client.domain.train.form for client in clients}
    kinds_of = {str(value.dtype) for value in request.parameters.values()}
    places = {client.domain.train.device for client in clients}
    places |= {value.device for value in request.parameters.values()}
    if len(kinds) > 1 or len(kinds_of) > 1:
        return "the clients' inputs differ in shape or precision, or the parameters in precision"
    if len(places) > 1:
        return f"data and parameters are on several devices: {', '.join(sorted(map(str, places)))}"
    if min(len(client.domain.train) for client in clients) == 0:
        return "a client has no training examples"
    return None


def _alike(one: SplitModel, other: SplitModel) -> bool:
    """Whether two networks are one but for what requests bring."""
    if str(one) != str(other):
        return False
    mine, theirs = state_of(one), state_of(other)
    return mine.kinds == theirs.kinds and all(
        torch.equal(value, theirs.constants[name]) for name, value in mine.constants.items()
    )


def _unsuited(clients: Sequence[Holder], request: Request) -> str | None:
    model = clients[0].model
    missing = [name for name in trained_parameters(model) if name not in request.parameters]
    if missing:
        return f"the request has no parameter {missing[0]!r}"
    if mixing := mixing_layers(model):
        kind = type(model.get_submodule(mixing[0])).__name__
        return f"layer {mixing[0]!r} ({kind}) makes statistics of a batch, which are each client's own"
    if moving := list(moving_layers(model)):
        return f"layer {moving[0]!r} keeps statistics, and clients must not share that"
    if any(random_parts(model, clients[0].domain.train.form)):
        return "the network draws at random, and each client draws its own"
    privacy = request.task.privacy
    if privacy.protect == "examples" or privacy.min_examples > 1:
        return "every example is clipped by itself, and each client looks at what it is asked"
    if request.kind == "train" and any(rule.at_clients for rule in request.task.rules):
        return "the server's rule corrects each client's steps"
    if request.kind == "train" and request.round <= request.task.training.head_rounds:
        return "the head is trained alone"
    recipe = request.task.recipe
    if recipe.mixup_alpha or recipe.sam_radius:
        return f"recipe {recipe.name!r} {'mixes examples' if recipe.mixup_alpha else 'climbs the loss'} of each client"
    if request.averaging_weight >= 1:
        return "one client is the whole federation"
    if request.task.training.mode == "local" and request.task.training.local.measure != "all":
        return "statistics are of examples that are drawn each round"
    return None


def _stacked(clients: Sequence[Holder], request: Request) -> str | None:
    if not all(client.domain.train.in_memory and client.domain.held_out.in_memory for client in clients):
        return "inputs are read as they are needed, or an example has several"
    if noted := beyond_examples(take_apart(clients[0].model)):
        return f"{' and '.join(noted)} keeps statistics or draws at random, which is not stacked"
    if told := _steps_apart(request):
        return told
    try:
        multiplications(clients[0], request)
    except Exception as error:  # whatever a stranger's layer does under vmap
        return f"torch.func.vmap cannot take the model: {str(error).splitlines()[0]}"
    return None


def _steps_apart(request: Request) -> str | None:
    """What of the local steps looks at one client's parameters, or at one step's number, as a whole."""
    training = request.task.training
    name, _ = named_rule(training.local.optimizer)
    if training.decay != "all" and training.weight_decay:
        return f"L2 is on {training.decay} alone, which is not stacked"
    if training.class_weights == "balanced" and training.batch_size is not None:
        return "classes are weighed by what a client has, of which a part is drawn each round"
    if training.mode != "local":
        return None
    if not by_entry(name):
        return f"optimizer {name!r} looks at a parameter as a whole, which is each client's own"
    if training.clip_norm is not None:
        return "each client's gradient is clipped by its own norm"
    return "the rate changes within a round" if counts_steps(training) else None


def _large(clients: Sequence[Holder], request: Request) -> str | None:
    most = max(clients, key=lambda client: len(client.domain.train))
    products, limit = multiplications(most, request), _LARGE[_kind(request)]
    if products > limit:
        return (
            f"one step of one client is {products / 1e6:,.0f} million multiplications; "
            f"together pays up to {limit / 1e6:,.0f} million"
        )
    each, room = training_bytes(most, request)(len(most.domain.train)), budget(_device(request))
    if 2 * each > room:
        return f"one client works on {each / 2**20:,.0f} MiB of the {room / 2**20:,.0f} MiB for all"
    return None


def _device(request: Request) -> torch.device:
    return next(iter(request.parameters.values())).device


def _kind(request: Request) -> str:
    return "cuda" if _device(request).type == "cuda" else "cpu"
