"""What a server rule is: a few functions of named tensors. They change nothing in place; what they return is new."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from fedha.errors import FedhaError

if TYPE_CHECKING:  # configs know the rules' names, and are read where torch would be slow to import
    from torch import Tensor

Named = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Step:
    """A client's next local step, as `Rule.correct` sees it.

    Attributes:
        gradient: Of the client's loss on the step's batch, by parameter.
        parameters: Where it was taken.
        start: The round's global model.
        sent: What the server sent along.
        state: The client's tensors.
    """

    gradient: Named
    parameters: Named
    start: Named
    sent: Named
    state: Named


@dataclass(frozen=True)
class Work:
    """A client's local steps of one round, done, as `Rule.answer` sees them.

    Attributes:
        start: The round's global model, by parameter.
        end: The client's model after its steps.
        steps: How many it took.
        rate: Their learning rate.
        sent: What the server sent along.
        state: The client's tensors.
        risks: Of what it trains on, where the rule `measures` them: at the ``start`` and at the ``end``, in nats.
    """

    start: Named
    end: Named
    steps: int
    rate: float
    sent: Named
    state: Named
    risks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What the clients of a round answered together, as `Rule.aggregate` sees it.

    Attributes:
        parameters: The round's global model.
        update: The weighted mean of what is to be subtracted: gradients, or what local steps moved.
        extra: The weighted means of what the rule's own `answer` gave.
        rate: The server's learning rate in this round.
        clients: How many the run has.
        answered: How many answered.
        restart: Whether the optimiser starts afresh in this round (a recipe's `reset_optimizer`).
    """

    parameters: Named
    update: Named
    extra: Named
    rate: float
    clients: int
    answered: int
    restart: bool = False


@dataclass(frozen=True)
class Cohort:
    """The clients that answered in a round, by client id, as `Rule.weigh` sees them.

    Attributes:
        weights: In the averages, as the config has them; they sum to 1.
        domains: Whose data each holds.
        risks: Of the global model; of those that sent theirs.
        examples: How many each holds.
        told: What the rule's own `answer` gave of each, by name.
    """

    weights: Mapping[int, float]
    domains: Mapping[int, str]
    risks: Mapping[int, float]
    examples: Mapping[int, int]
    told: Mapping[int, Named] = field(default_factory=dict)


def mean_step(state: Named, answers: Answers) -> tuple[Named, Named]:
    """FedAvg: subtract the mean update, times the server's rate (McMahan et al., AISTATS 2017)."""
    moved = {name: value.add(answers.update[name], alpha=-answers.rate) for name, value in answers.parameters.items()}
    return moved, state


def nothing(tensors: Named) -> Named:
    """No tensors."""
    return {}


@dataclass(frozen=True)
class Rule:
    """One rule. All but the name may be left out, which leaves FedAvg.

    Attributes:
        name: What tables, checkpoints and messages call it.
        modes: In which it makes sense; one with `correct` or `answer` is for local steps alone.
        rate: The server's learning rate where the config gives none.
        init: The server's tensors at the start, from the parameters. Others may join them, but these keep their names,
            shapes and types.
        init_client: A client's tensors before it first trains, from the parameters; they keep names, shapes and types.
        sends: What goes along with a request to train, from the server's tensors.
        correct: The gradient that a local step takes in the place of its own.
        answer: What a client answers beside its update, and what it remembers from then on.
        weigh: The weights of the updates in their mean by client id, and the server's tensors: from those tensors and
            the round's answers.
        refer: The references that clients are told, and the server's tensors: from those tensors and the new means.
        aggregate: The new parameters, and the server's tensors: from those tensors and the mean answers. None: another
            rule's are taken.
        shows: The parameters that are evaluated and kept, from the server's tensors and the trained parameters, told
            whether training is over. None: the trained ones.
        hears: The server's tensors after an evaluation, before training is over, of what it shows on what is held out:
            from those tensors and the mean risk over the source domains, in nats. None: it is not told.
        measures: At which of a client's models in a round it measures the risk of its examples for `answer`.
        one_rate: Whether `answer` goes by the rate of the steps, so that they must all have one.

    Raises:
        FedhaError: The name is no name.
    """

    name: str
    modes: tuple[str, ...] = ("synchronous", "local")
    rate: float = 1.0
    init: Callable[[Named], Named] = nothing
    init_client: Callable[[Named], Named] = nothing
    sends: Callable[[Named], Named] = nothing
    correct: Callable[[Step], Named] | None = None
    answer: Callable[[Work], tuple[Named, Named]] | None = None
    weigh: Callable[[Named, Cohort], tuple[Mapping[int, float], Named]] | None = None
    refer: Callable[[Named, Named], tuple[Named, Named]] | None = None
    aggregate: Callable[[Named, Answers], tuple[Named, Named]] | None = mean_step
    shows: Callable[[Named, Named, bool], Named] | None = None
    hears: Callable[[Named, float], Named] | None = None
    measures: tuple[Literal["start", "end"], ...] = ()
    one_rate: bool = True

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or not self.name.isprintable():
            raise FedhaError(f"a server rule is named {self.name!r}; give it a name without slashes")

    @property
    def at_clients(self) -> bool:
        """Whether clients do more than train: they correct their steps, or answer beside the update."""
        return self.correct is not None or self.answer is not None
