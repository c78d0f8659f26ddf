"""What server and clients say to each other, as plain values; `fedha.flower.wire` puts them into messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from fedha.config import PrivacyConfig, TrainingConfig
from fedha.errors import FedhaError
from fedha.metrics.asked import NOTHING, Asked
from fedha.recipes import Recipe, in_local_steps
from fedha.rules.found import rules_of
from fedha.rules.rule import Rule

Kind = Literal["measure", "train", "evaluate", "heads", "directions"]
DIAGNOSING = ("heads", "directions")  # kinds of a diagnosis: at a learned head, beside the rounds

SIZES = "sizes"  # in the place of heads: the sizes of the features


@dataclass(frozen=True)
class Task:
    """What stays the same for a whole run.

    Attributes:
        recipe: What is aligned; in local mode as local steps take it.
        training: How clients and server train.
        seed: The run's seed.
        privacy: How clients' answers are covered.

    Raises:
        FedhaError: The server's rule cannot be found, or does not go with the rest; or classes cannot be balanced.
    """

    recipe: Recipe
    training: TrainingConfig
    seed: int
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)

    def __post_init__(self) -> None:
        if self.training.mode == "local":
            object.__setattr__(self, "recipe", in_local_steps(self.recipe))
        problem = self.training.weighs_by_counts(self.privacy.protect, self.privacy.secure_aggregation)
        problem = problem or self.training.uncovered(self.recipe, self.privacy.protect)
        if problem:
            raise FedhaError(problem)
        _ = self.rules  # what is wrong with them is said where the task is made: at the server and at every client

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """What the server makes of the answers: what the recipe asks for, and the rule that the config names."""
        return rules_of(self.recipe, self.training, self.privacy)


@dataclass(frozen=True)
class Request:
    """The server's side of an exchange.

    Attributes:
        task: The run's task.
        round: From 1.
        parameters: The global model's trained parameters, by name.
        references: Averaged statistics known so far this round, by name.
        measure: The statistics wanted; in a training exchange those that ride along, for the next round.
        averaging_weight: The client's, in (0, 1]; on its way to a secure sum, which clients are all asked for alike,
            that of those who are left of the round.
        additive: Whether clients that answer together may send one weighted sum of their tensors: nobody needs theirs
            one by one.
        evaluate: Parts of the domain to evaluate at the global model: held_out, train; in a training exchange, too.
        asked: What is counted of them, beside accuracy and risk.
        sent: What the run's rules send along with a request to train, as ``rule's name/its name``; in a diagnosis the
            heads or directions, some tensors by number, or ``sizes``.
        kind: What is asked.
        running: The parts of the global model that move beside them, by name (`fedha.models.state`).
        constants: Digest of what of the model never moves; "" where nothing is said of it.
        contract: Digest of what was agreed on (`fedha.privacy.contract`), as the server has it.
    """

    task: Task
    round: int
    parameters: Mapping[str, Tensor]
    references: Mapping[str, Tensor] = field(default_factory=dict)
    measure: tuple[str, ...] = ()
    averaging_weight: float = 1.0
    additive: bool = False
    evaluate: tuple[str, ...] = ()
    asked: Asked = NOTHING
    sent: Mapping[str, Tensor] = field(default_factory=dict)
    kind: Kind = "train"
    running: Mapping[str, Tensor] = field(default_factory=dict)
    constants: str = ""
    contract: str = ""


@dataclass(frozen=True)
class Reply:
    """A client's side of an exchange.

    Attributes:
        client_name: Its domain's, or ``domain/shard`` where several share one.
        domain: Its domain's name.
        client_id: Its number from 0, its ``partition-id``: everything is summed in their order. Not Flower's node id.
        examples: Training examples it holds; 0 where only a sum over clients may tell.
        tensors: Statistics by name, or the update by parameter name. What comes beside an update has a prefix:
            ``statistics/`` what rides along (`fedha.piggyback`), ``rule/`` what the run's rules ask for, ``buffers/``
            how what is running moved.
        metrics: Numbers for the log.
        sums: What was counted of parts of the domain, numbers each, as ``part/name``.
        input_shape: Shape of one of its inputs (of several, their shapes), when it introduces itself; else ().
        weighed: Whether the tensors are a weighted sum over several clients, whose other replies have none.
        secure: What belongs to a secure sum's protocol, by name.
        kinds: When it introduces itself, what becomes of the parts of its network's state (`fedha.models.state`).
        other: Then also the constant parts that are not as the server announced them.
    """

    client_name: str
    domain: str
    client_id: int
    examples: int
    tensors: Mapping[str, Tensor]
    metrics: Mapping[str, float] = field(default_factory=dict)
    weighed: bool = False
    input_shape: Any = ()
    secure: Mapping[str, bytes | list[bytes]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    other: tuple[str, ...] = ()
    sums: Mapping[str, Sequence[float]] = field(default_factory=dict)


def is_question(name: str, value: Tensor) -> bool:
    """Whether what a diagnosis sends along is what it may: finite heads or directions, [K, C, D], or ``sizes``."""
    if name == SIZES:
        return value.numel() == 0
    return name.isdecimal() and value.dim() == 3 and value.numel() > 0 and bool(value.isfinite().all())
