"""What a plan will need, from its config and data alone: bytes, and whether clients are trained together."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fedha.batching import refusal
from fedha.client import Client
from fedha.cohort import cohort_size
from fedha.config import Config
from fedha.data.domain import Domain, DomainSet
from fedha.data.partition import client_count
from fedha.engine.plan import Plan
from fedha.exchange import Request, Task
from fedha.models import build
from fedha.models.check import likely_form
from fedha.models.state import trained_parameters
from fedha.pieces import BUDGET_BYTES, example_bytes, rows_at_once
from fedha.placement import placed_domain

_PROCESS_BYTES = 240_000_000  # a worker that has imported torch, Flower and fedha; its part of what is shared included
_INLINE_BYTES = 330_000_000  # this process, which has also drawn a page
_SERVER_COPIES = 3  # the server's parameters, and two of Adam's
_MODEL_COPIES = 4  # parameters, gradients, the update, and what is being sent


def data_bytes(part: Domain) -> int:
    """Of a client's data in memory, both parts."""
    return part.train.nbytes + part.held_out.nbytes


def model_bytes(config: Config, domains: DomainSet) -> int:
    """Of a run's parameters."""
    model = build(config.network, domains.input_shape, domains.classes, config.seed[0])
    return sum(value.nbytes for value in model.parameters())


def run_operations(config: Config, domains: DomainSet) -> float:
    """Operations of a whole run, roughly: six a parameter, example and pass, as in a network of linear layers.

    Args:
        config: Of one run.
        domains: The run's domains.
    """
    model = build(config.network, domains.input_shape, domains.classes, config.seed[0])
    parameters = sum(value.numel() for value in model.parameters())
    training, local = config.training, config.training.local
    examples = float(sum(len(one.train) for one in domains.sources))
    clients = client_count(domains, config.data, config.seed[0])
    drawn = cohort_size(training, clients) / clients
    passes = 1.0
    if training.mode == "local":
        rows = local.batch_size or examples / clients
        passes = local.epochs or (local.steps or 1) * rows * clients / examples
    return 6 * parameters * examples * drawn * passes * training.rounds


@dataclass(frozen=True)
class Batches:
    """What goes through a network at once, in bytes.

    Attributes:
        working: While a batch is measured or trained on: a piece forth and back.
        kept: Of each client, from its measurement to its training: its only piece's graph, or all pieces' features.
        evaluated: While a part of a domain is evaluated.
    """

    working: int
    kept: int
    evaluated: int


def batches(config: Config, domains: DomainSet, examples: int, largest_part: int) -> Batches:
    """What the pieces of one client will take.

    Args:
        config: Of one run.
        domains: The run's.
        examples: That the client trains on.
        largest_part: Of any domain, targets included.
    """
    model = build(config.network, domains.input_shape, domains.classes, config.seed[0])
    form, recipe, training = likely_form(model, domains.input_shape), config.recipe[0].resolve(), config.training
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    names = [term.statistic for term in recipe.terms]
    rows = training.chunk or rows_at_once(model, form, names, recipe.probes)
    synchronous = training.mode == "synchronous"
    batch = min(examples, (training.batch_size if synchronous else training.local.batch_size) or examples)
    inner = model.head.in_features if isinstance(model.head, nn.Linear) else 0
    # the features with the bias, and once more what a statistic makes of them
    features = 2 * (inner + 1) * next(iter(parameters.values())).element_size()
    each = example_bytes(model, form)
    kept = 0
    if recipe.measurements() and synchronous:
        all_features = batch * features // 2
        kept = batch * (each // 2 + features) if batch <= rows else all_features * (all_features <= BUDGET_BYTES)
    at_once = min(largest_part, rows_at_once(model, form, (), 1))
    return Batches(min(batch, rows) * (each + features), kept, at_once * each // 2)


def memory_bytes(plan: Plan, config: Config, parts: Sequence[Domain], domains: DomainSet) -> int:
    """What the largest worker will need at its peak, within a third: process, data, models, and what is being computed.

    Args:
        plan: Of the run.
        config: Of it.
        parts: What each client holds.
        domains: The run's; a run in this process evaluates the targets too.
    """
    each = -(-plan.clients // plan.workers)
    here = plan.engine == "inline"
    ordered = sorted(parts, key=data_bytes, reverse=True)[:each]
    data = sum(map(data_bytes, ordered)) + (sum(map(data_bytes, domains.targets)) if here else 0)
    everybody = (*parts, *(domains.targets if here else ()))
    largest = max(max(len(one.train), len(one.held_out)) for one in everybody)
    one = batches(config, domains, len(ordered[0].train), largest)
    kept = sum(one.kept * len(part.train) // max(1, len(ordered[0].train)) for part in ordered)
    copies = _MODEL_COPIES + (_SERVER_COPIES + each if here else 0)
    computed = max(kept + one.working, one.evaluated)
    return (_INLINE_BYTES if here else _PROCESS_BYTES) + data + copies * model_bytes(config, domains) + computed


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
    model = build(config.network, domains.input_shape, domains.classes, config.seed[0]).to(device)
    parameters = trained_parameters(model)
    clients = [Client(client_id, placed_domain(part, model), model) for client_id, part in enumerate(parts)]
    task = Task(config.recipe[0].resolve(), config.training, config.seed[0])
    every = client_count(domains, config.data, config.seed[0])
    weighed = any(rule.weigh is not None for rule in task.rules)
    summed = not (weighed or config.privacy.secure_aggregation or config.privacy.protect == "clients")
    reason = refusal(clients, Request(task, 1, parameters, averaging_weight=1 / every, additive=summed))
    return "together" if reason is None else f"one by one: {reason}"
