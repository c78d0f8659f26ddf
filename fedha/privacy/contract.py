"""What a client may be asked: agreed on before a run, held by the client, and compared with every request.

Its terms are what the server has too, and have a digest that travels. The site's own words beside them (the key of its
split, fewer evaluations, fewer numbers, how often a question is answered again) are in no digest; they narrow it. Two
are the site's alone to give: answers to a diagnosis, and a domain that is lent to one and trained by nobody.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from fedha.config import Config, FederationConfig, PrivacyConfig, RecipeConfig, TrainingConfig, is_elsewhere
from fedha.errors import FedhaError
from fedha.exchange import Task
from fedha.models.split import SplitModel
from fedha.models.state import kinds_of, state_of
from fedha.privacy.releasable import private_exchanges
from fedha.recipes import Recipe
from fedha.schema import shown
from fedha.training import PARTS

NUMBERS = ("accuracy", "held_out", "loss", "penalty", "risk", "train")  # that go along with answers
_FEWEST_REPEATS = 5
_TEXTS = ("source", "pull")  # of a recipe, which decide nothing
_STARTS = ("start", "start_head")  # of a model: where the server's parameters begin, which it sends anyway
Drawing = Literal["all", "public", "secret"]


@dataclass(frozen=True)
class Sums:
    """How secure sums are made.

    Attributes:
        threshold: So many clients must stay to the end; None: the usual part of a round's clients.
        minimum: No sum of fewer clients is learnt.
        degree: With how many others each shares masks; None: with all.
        bound: Largest absolute value, weight included, that can be sent.
    """

    threshold: int | None
    minimum: int
    degree: int | None
    bound: float


@dataclass(frozen=True)
class Contract:
    """What a client may be asked.

    Attributes:
        task: Recipe, training, privacy and seed: all that travels with a request.
        schedule: Whether statistics and evaluations ride along with updates.
        sections: Those of data and model of a config, as plain values; empty where an app brings its own.
        metrics: What is counted where the client evaluates, beside accuracy and risk: names.
        groups: The column by which examples are told apart there; "": none.
        evaluate: Parts of the domain that are evaluated; None: what the task allows.
        numbers: What goes along with answers, of `NUMBERS`; the others are left out.
        repeats: How many answers may be asked for again in all, of each kind: by a run that is resumed, by one that
            is begun anew, or because an answer was lost. None: nobody counts. Default: as many as there are rounds,
            or where anything is covered a tenth of them, and at least five.
        diagnose: How many heads and directions are answered in diagnoses of the run, in all; 0: none. None: any number.
        volunteer: The unseen domain that is lent to diagnoses, by name, and to nothing else; "": it takes part.
        split: The key that decides who is held out, as hexadecimal digits; "" where nobody has written it down.
        network: Digest of the network's state: names, shapes, types, what becomes of them; "": what the client makes.
        constants: What requests call what of the network never moves (`fedha.models.state.constants_name`); "": as the
            first one does.

    Raises:
        FedhaError: A part or a number that there is not, a key that is none, or a negative number of repeats.
    """

    task: Task = field(hash=False)
    schedule: Literal["exact", "piggyback"] = "exact"
    sections: Mapping[str, Any] = field(default_factory=dict, hash=False)
    metrics: tuple[str, ...] = ()
    groups: str = ""
    evaluate: tuple[str, ...] | None = None
    numbers: tuple[str, ...] = NUMBERS
    repeats: int | None = -1
    diagnose: int | None = 0
    volunteer: str = ""
    split: str = ""
    network: str = ""
    constants: str = ""

    def __post_init__(self) -> None:
        if self.evaluate is None:
            object.__setattr__(self, "evaluate", evaluated_parts(self.task.privacy))
        if self.repeats == -1:
            object.__setattr__(self, "repeats", usual_repeats(self.task))
        for what, given, known in (("evaluates", self.evaluate, PARTS), ("sends", self.numbers, NUMBERS)):
            if other := [one for one in given or () if one not in known]:
                raise FedhaError(f"a contract {what} {shown(other[0])}; known are {', '.join(known)}")
        if self.repeats is not None and self.repeats < 0:
            raise FedhaError(f"a contract has repeats {self.repeats}; give 0 or more, or null for any number")
        if self.diagnose is not None and self.diagnose < 0:
            raise FedhaError(f"a contract has diagnose {self.diagnose}; give 0 or more, or null for any number")
        if self.volunteer and self.diagnose == 0:
            raise FedhaError(
                f"a contract lends {self.volunteer!r} to diagnoses and has diagnose 0; say how many heads and "
                "directions are answered in all"
            )
        check_key(self.split)

    @property
    def counts(self) -> bool:
        """Whether anybody counts what is answered."""
        return self.repeats is not None or bool(self.diagnose)

    @property
    def rounds(self) -> int:
        """The last round."""
        return self.task.training.rounds

    @property
    def sums(self) -> Sums | None:
        """How secure sums are made; None where answers travel in the clear."""
        privacy = self.task.privacy
        if not privacy.secure_aggregation:
            return None
        return Sums(privacy.threshold, privacy.minimum, None, privacy.bound)

    @property
    def cohort(self) -> Drawing:
        """Who takes part in a round: all, or those who are drawn: from the seed, or by a secret of the server's."""
        if self.task.training.clients_per_round is None:
            return "all"
        hidden = self.task.privacy.protect == "clients" and self.task.training.client_sampling == "uniform"
        return "secret" if hidden else "public"

    @cached_property
    def exchanges(self) -> tuple[tuple[str, ...], ...]:
        """The statistics that a round measures: one tuple for each time that they are asked for."""
        recipe, covered = self.task.recipe, self.task.privacy.protect == "examples"
        return private_exchanges(recipe) if covered else recipe.measurements()

    @cached_property
    def measured(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(name for group in self.exchanges for name in group))

    @cached_property
    def terms(self) -> Mapping[str, Any]:
        """All that was agreed with the server, by key as in a config."""
        asked = {"evaluation.metrics": list(self.metrics), "evaluation.groups": self.groups or None}
        return {**task_terms(self.task), "federation.schedule": self.schedule, **asked, **dict(flat(self.sections))}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the terms."""
        return hashlib.sha256(json.dumps(self.terms, sort_keys=True).encode()).hexdigest()

    @cached_property
    def compared(self) -> dict[int, tuple[Task, Any]]:
        """What was found of tasks that were compared with it before, by identity; they never change."""
        return {}

    @cached_property
    def along(self) -> dict[Any, Mapping[str, Any]]:
        """Shapes of what the rules send along with updates, by names and shapes of the parameters."""
        return {}

    @cached_property
    def key(self) -> bytes | None:
        """The key of the split."""
        return bytes.fromhex(self.split) or None


def contract_of(config: Config, **own: Any) -> Contract:
    """The contract of one run.

    Args:
        config: One recipe, one seed.
        own: The site's words, as `Contract` has them.
    """
    task = Task(config.recipe[0].resolve(), config.training, config.seed[0], config.privacy)
    metrics, groups = tuple(config.evaluation.metrics), config.evaluation.groups or ""
    return Contract(task, config.federation.schedule, sections_of(config), metrics, groups, **own)


def simulated(config: Config) -> Contract:
    """The contract of the clients of a simulation, whose data are in one place: what is asked again counts nothing."""
    return contract_of(config, repeats=None, diagnose=None)


def contract(
    recipe: str | RecipeConfig | Recipe,
    training: TrainingConfig | None = None,
    *,
    seed: int = 0,
    federation: FederationConfig | None = None,
    privacy: PrivacyConfig | None = None,
    network: SplitModel | None = None,
    **own: Any,
) -> Contract:
    """The contract of an app of your own, from what its strategy is given.

    Args:
        recipe, training, seed, federation, privacy: As `HessianAlignment` takes them.
        network: The client's, where it is to be held to it.
        own: The client's words, as `Contract` has them.
    """
    row = RecipeConfig(name=recipe) if isinstance(recipe, str) else recipe
    task = Task(
        row if isinstance(row, Recipe) else row.resolve(),
        training or TrainingConfig(),
        seed,
        privacy or PrivacyConfig(),
    )
    if network is not None:
        own = {"network": network_digest(network), **own}
    return Contract(task, (federation or FederationConfig()).schedule, **own)


def task_terms(task: Task) -> dict[str, Any]:
    """A task's terms: all that is in it but texts for people, and for what the server ends training."""
    recipe = {name: value for name, value in asdict(task.recipe).items() if name not in _TEXTS}
    terms = recipe.pop("terms")
    recipe["align"] = [term["statistic"] for term in terms]  # in order, and each as often as it is there
    recipe["terms"] = {term.pop("statistic"): term for term in terms}
    parts = {
        "recipe": recipe,
        "training": task.training.model_dump(mode="json", exclude={"stop"}),
        "privacy": task.privacy.model_dump(mode="json"),
    }
    return {**dict(flat(parts)), "seed": task.seed}


def sections_of(config: Config) -> dict[str, Any]:
    """What of a config decides a client's data and network, but for where its files are."""
    model = {name: value for name, value in config.model.model_dump(mode="json").items() if name not in _STARTS}
    sections = {"data": config.data.model_dump(mode="json"), "model": model}
    return _without_places(sections, "")


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by key, with dots; what is empty stands for itself."""
    for given, value in content.items():
        name = json.dumps(given) if "." in given or '"' in given else given  # a dot of a name is no step
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def network_digest(model: SplitModel) -> str:
    """A digest of a network's state: names, shapes, types, and what becomes of them; no values."""
    state = state_of(model)
    kinds = kinds_of(model)
    parts = {**state.trained, **state.running, **state.constants}
    told = {name: (str(value.dtype), list(value.shape), kinds[name]) for name, value in parts.items()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def evaluated_parts(privacy: PrivacyConfig) -> tuple[str, ...]:
    """The parts of a domain that a run evaluates: where examples are protected, what noise covers."""
    if privacy.protect != "examples":
        return PARTS
    return ("held_out",) if privacy.evaluation_noise is not None else ()


def usual_repeats(task: Task) -> int:
    """How many answers may usually be asked for again."""
    rounds, privacy = task.training.rounds, task.privacy
    covered = privacy.protect != "nothing" or privacy.secure_aggregation
    return max(_FEWEST_REPEATS, rounds // 10 if covered else rounds)


def check_key(split: str) -> None:
    """Refuse a key of a split that is none.

    Raises:
        FedhaError: It is neither empty nor 64 hexadecimal digits.
    """
    if split and (len(split) != 64 or not set(split) <= set("0123456789abcdef")):
        raise FedhaError(f"the key of a split has {len(split)} characters; it is 64 digits from 0-9a-f, or left out")


def _without_places(content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    kept = {name: value for name, value in content.items() if not is_elsewhere(f"{prefix}{name}")}
    return {
        name: _without_places(value, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in kept.items()
    }
