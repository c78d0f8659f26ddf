"""What a plan will need, from its config and data alone: bytes, and whether clients are trained together."""

from collections.abc import Sequence

from fedha.batching import refusal
from fedha.client import Client
from fedha.cohort import cohort_size
from fedha.config import Config
from fedha.data.domain import Domain, DomainSet
from fedha.engine.plan import Plan
from fedha.exchange import Request, Task
from fedha.models import build
from fedha.models.state import trained_parameters
from fedha.placement import placed_domain

_PROCESS_BYTES = 240_000_000  # a worker that has imported torch, Flower and fedha; its part of what is shared included
_MODEL_COPIES = 4  # parameters, gradients, the update, and what is being sent


def data_bytes(part: Domain) -> int:
    """Of a client's data in memory, both parts."""
    return part.train.nbytes + part.held_out.nbytes


def model_bytes(config: Config, domains: DomainSet) -> int:
    """Of a run's parameters."""
    model = build(config.model, domains.input_shape, domains.classes, config.seed[0])
    return sum(value.nbytes for value in model.parameters())


def run_operations(config: Config, domains: DomainSet) -> float:
    """Operations of a whole run, roughly: six a parameter, example and pass, as in a network of linear layers.

    Args:
        config: Of one run.
        domains: The run's domains.
    """
    model = build(config.model, domains.input_shape, domains.classes, config.seed[0])
    parameters = sum(value.numel() for value in model.parameters())
    training, local = config.training, config.training.local
    examples = float(sum(len(one.train) for one in domains.sources))
    clients = len(domains.sources) * config.data.clients_per_domain
    drawn = cohort_size(training, clients) / clients
    passes = 1.0
    if training.mode == "local":
        rows = local.batch_size or examples / clients
        passes = local.epochs or (local.steps or 1) * rows * clients / examples
    return 6 * parameters * examples * drawn * passes * training.rounds


def memory_bytes(plan: Plan, client_bytes: int, model_bytes: int) -> int:
    """What a worker will roughly need: its process, its clients' data, models on their way.

    Args:
        plan: Of the run.
        client_bytes: A client's data.
        model_bytes: The model's parameters.
    """
    each = -(-plan.clients // plan.workers)
    return _PROCESS_BYTES + each * client_bytes + _MODEL_COPIES * model_bytes


def batching_note(config: Config, parts: Sequence[Domain], domains: DomainSet, device: str = "cpu") -> str:
    """Whether a process will train its clients together, and if not, why.

    Args:
        config: Of one run.
        parts: What the clients of one process hold.
        domains: Whose parts they are.
        device: Where they compute.
    """
    if config.engine.batching is False:
        return "one by one: engine.batching is off"
    model = build(config.model, domains.input_shape, domains.classes, config.seed[0]).to(device)
    parameters = trained_parameters(model)
    clients = [Client(place, placed_domain(part, model), model) for place, part in enumerate(parts)]
    task = Task(config.recipe[0].resolve(), config.training, config.seed[0])
    every = len(domains.sources) * config.data.clients_per_domain
    weighed = any(rule.weigh is not None for rule in task.rules)
    summed = not (weighed or config.privacy.secure_aggregation or config.privacy.protect == "clients")
    reason = refusal(clients, Request(task, 1, parameters, share=1 / every, additive=summed))
    return "together" if reason is None else f"one by one: {reason}"
