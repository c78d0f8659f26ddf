"""The training section: what a round does at the server and at a client."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedha import plugins
from fedha.config.choosing import StopConfig
from fedha.config.optimizer import torch_names, torch_optimizer
from fedha.config.schedule import ScheduleConfig, given_schedule
from fedha.config.section import MAY_CHANGE, Section
from fedha.named import is_own
from fedha.recipes import Recipe
from fedha.rules.table import AVERAGINGS, RULES, named_rule, of_mode
from fedha.schema import nearest, shown
from fedha.signature import meant

_OF_CLIENTS = ("sgd", "adam")  # steps that are fedha's own where they have no options


class LocalConfig(Section):
    """What a client does between two exchanges in local mode."""

    steps: int | None = Field(None, ge=1, description="steps a round; give steps or epochs")
    epochs: int | None = Field(None, ge=1, description="epochs a round; give steps or epochs")
    batch_size: int | None = Field(None, ge=1, description="examples a step; null: the whole domain")
    measure: Literal["all", "batch"] | Annotated[int, Field(ge=1)] = Field(
        "all", description="examples that statistics are of: all, so many drawn each round, or the first step's batch"
    )
    optimizer: str | dict[str, Any] = Field(
        "sgd",
        description="the clients' optimiser, fresh each round: sgd, adam, or any of torch's by its class' name in "
        "small letters; with options: {name: adamw, weight_decay: 0.01}",
    )
    learning_rate: float = Field(
        0.1, gt=0, description="of the clients' optimiser; default: 0.1 of sgd and adam as they are, else torch's own"
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="of the clients' SGD")

    @model_validator(mode="before")
    @classmethod
    def _usual_rate(cls, content: Any) -> Any:
        """torch's own default rate, where one of its optimisers is named and no rate is given."""
        given = content.get("optimizer") if isinstance(content, dict) else None
        if given is None or content.get("learning_rate") is not None:
            return content
        try:
            torchs = torch_optimizer(given, _OF_CLIENTS)
        except ValueError:  # which the key's own look at it tells
            return content
        return content if torchs is None else {**content, "learning_rate": torchs.rate}

    @field_validator("optimizer", mode="before")
    @classmethod
    def _name_or_mapping(cls, value: Any) -> Any:
        found = torch_optimizer(value, _OF_CLIENTS)
        if found is not None:
            return found.written
        name = value.get("name") if isinstance(value, dict) else value
        if not isinstance(name, str):
            raise ValueError(f"{value!r} names no optimizer; give a name, or {{name: …, option: …}}")
        if name not in _OF_CLIENTS:
            raise ValueError(f"there is no optimizer {name!r}{nearest(name, [*_OF_CLIENTS, *torch_names()])}")
        return name

    @model_validator(mode="after")
    def _momentum_is_read(self) -> "LocalConfig":
        name, options = named_rule(self.optimizer)
        if self.momentum and (options or name not in _OF_CLIENTS):
            raise ValueError(f"momentum is {self.momentum:g}, which {name!r} reads among the optimizer's own options")
        return self

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> "LocalConfig":
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps is {self.steps} and epochs is {self.epochs}; give one of them")
        return self


class TrainingConfig(Section):
    """How the federation trains."""

    mode: Literal["synchronous", "local"] = Field(
        "synchronous", description="one step a round on the server, or several local steps a client"
    )
    rounds: int = Field(100, ge=1, json_schema_extra=MAY_CHANGE, description="number of rounds")
    optimizer: str | dict[str, Any] | None = Field(
        None,
        description="the server's rule: sgd, adam or any of torch's by its class' name in small letters (synchronous), "
        "fedavg, fedavgm, fedadam, fedyogi, fedprox, scaffold, qfedavg, fedgma or feddg_ga (local), or your own as "
        "package.module:function; with options: {name: adamw, weight_decay: 0.01}, {name: fedprox, mu: 0.1}",
    )
    learning_rate: float | None = Field(None, gt=0, description="of the server's optimiser")
    momentum: float | None = Field(None, ge=0, lt=1, description="of sgd and fedavgm")
    weight_decay: float = Field(
        0.0, ge=0, description="L2: adds this times the squared norm of all parameters to the loss"
    )
    decay: Literal["all", "weights"] = Field(
        "all", description="what weight decay pulls at, L2 and an optimiser's own: all, or no biases and norms"
    )
    rates: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="factors of the learning rate, by what parameters' names begin with: {featurizer: 0.1}"
    )
    head_rounds: int = Field(
        0, ge=0, description="rounds at the beginning in which the head alone is trained (linear probing), then all is"
    )
    weight_averaging: str | dict[str, Any] | None = Field(
        None,
        description="what of the models of all rounds is evaluated and kept: ema or swad, or your own as "
        "package.module:function; with options: {name: ema, decay: 0.99}; default: the last one",
    )
    clip_norm: float | None = Field(
        None, gt=0, description="largest norm of a step's gradient (of examples' and clients': privacy.clip)"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="part of each label that is spread over all classes alike, in training alone"
    )
    class_weights: Literal["balanced"] | list[Annotated[float, Field(gt=0)]] | None = Field(
        None,
        description="what an example counts by its class: one number each, or balanced: each client's classes alike",
    )
    schedule: Literal["constant", "cosine", "linear"] | ScheduleConfig = Field(
        "constant",
        description="of the learning rate: constant, or falling as cosine or linear over the rounds; more with "
        "{name: cosine, warmup: 5, by: step}, {name: step, every: 30}, {name: milestones, at: [60, 80]}",
    )
    averaging: Literal["domains", "examples", "clients"] = Field(
        "domains", description="every domain counts alike, or every example, or every client"
    )
    clients_per_round: int | float | None = Field(
        None, description="clients drawn each round: a number, or a fraction under 1; null: all of them"
    )
    client_sampling: Literal["uniform", "examples"] = Field(
        "uniform", description="clients are drawn alike, or in proportion to their examples; without replacement"
    )
    batch_size: int | None = Field(
        None, ge=1, description="synchronous: examples drawn of each client in a round; null: the whole domain"
    )
    chunk: int | None = Field(
        None,
        ge=1,
        description="examples that go through the network in one piece; default: by the model, within 256 MiB; on a "
        "GPU within an eighth to a quarter of its memory",
    )
    stop: StopConfig | None = Field(
        None,
        json_schema_extra=MAY_CHANGE,
        description="ends training where what sources hold out gets no better: {metric: accuracy, patience: 10}",
    )
    local: LocalConfig = LocalConfig()

    @field_validator("optimizer", mode="before")
    @classmethod
    def _name_or_mapping(cls, value: Any) -> Any:
        given = value.get("name") if isinstance(value, dict) else value
        if value is not None and not isinstance(given, str):
            raise ValueError(f"{value!r} names no rule; give a name, or {{name: …, argument: …}}")
        known = [*RULES, *plugins.installed(plugins.RULES)]
        if value is None or given == "objects" or is_own(str(given)):
            return value
        found = torch_optimizer(value, known)
        return value if found is None else found.written

    @field_validator("weight_averaging", mode="before")
    @classmethod
    def _averaging_or_own(cls, value: Any) -> Any:
        given = value.get("name") if isinstance(value, dict) else value
        if value in (None, "none"):
            return None
        known = [*AVERAGINGS, *plugins.installed(plugins.RULES)]
        if not isinstance(given, str) or not (given in known or is_own(given)):
            raise ValueError(
                f"{shown(value)} is no averaging of weights{nearest(str(given), known)}; give a name, {{name: …, "
                "option: …}, or your own as package.module:function"
            )
        options = named_rule(value)[1]
        unknown = [one for one in options if given in AVERAGINGS and one not in AVERAGINGS[given].options]
        if unknown:
            raise ValueError(f"{given} takes no {unknown[0]}{nearest(unknown[0], AVERAGINGS[given].options)}")
        return value

    @field_validator("class_weights", mode="before")
    @classmethod
    def _balanced_or_numbers(cls, value: Any) -> Any:
        found = meant(value)
        if not (value is None or value == "balanced" or (isinstance(found, list) and all(map(_is_weight, found)))):
            raise ValueError(f"it is {shown(value)}; give balanced, or a list of numbers over 0, one a class")
        return found

    @field_validator("schedule", mode="before")
    @classmethod
    def _name_or_schedule(cls, value: Any) -> Any:
        return given_schedule(value)

    @field_validator("clients_per_round", mode="before")
    @classmethod
    def _number_or_fraction(cls, value: Any) -> Any:
        number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if value is not None and not number and not (isinstance(value, float) and 0 < value < 1):
            raise ValueError(f"{value!r} is neither a number of clients, 1 or more, nor a fraction between 0 and 1")
        return value

    @model_validator(mode="after")
    def _optimizer_fits_mode(self) -> "TrainingConfig":
        if self.optimizer is None:
            return self
        name, options = named_rule(self.optimizer)
        if is_own(plugins.location(plugins.RULES, name)) or name == "objects":
            return self
        allowed, own = of_mode(self.mode), "or name your own rule as package.module:function"
        if name not in RULES or (options and name in allowed and torch_optimizer(self.optimizer, RULES)):
            return self._torchs_fits_mode(name, allowed, own)
        if name not in allowed:
            raise ValueError(f"optimizer is {name!r} but mode {self.mode!r} takes {' or '.join(allowed)}")
        unknown = [option for option in options if option not in RULES[name].options]
        if unknown:
            taken = RULES[name].options
            told = f"only {', '.join(taken)}{nearest(unknown[0], taken)}" if taken else "leave it out"
            raise ValueError(f"optimizer {name!r} takes no {', '.join(unknown)}; {told}")
        return self

    def _torchs_fits_mode(self, name: str, allowed: list[str], own: str) -> "TrainingConfig":
        """One of torch's is the server's in synchronous mode alone: in local mode it is the clients who step."""
        known = torch_names()
        if name not in known:
            known = [*allowed, *(known if self.mode == "synchronous" else ()), *plugins.installed(plugins.RULES)]
            raise ValueError(f"there is no optimizer {name!r}{nearest(name, known, own)}")
        if self.mode == "local":
            raise ValueError(
                f"optimizer is {name!r}, but in mode 'local' the clients step: give local.optimizer {name!r}, and "
                f"leave the server's to {' or '.join(allowed)}"
            )
        if self.momentum is not None:
            raise ValueError(f"momentum is {self.momentum:g}, which {name!r} reads among the optimizer's own options")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> "TrainingConfig":
        schedule, steps = self.schedule, self.local.steps
        if isinstance(schedule, ScheduleConfig):
            counted = self.rounds
            if self.mode == "local" and schedule.by == "step":
                counted = self.rounds * (steps or 1) if steps or not self.local.epochs else 0  # epochs': not known here
            if counted and schedule.warmup >= counted:
                raise ValueError(
                    f"schedule.warmup is {schedule.warmup}, but there are {counted} {schedule.by}s in all; lower it"
                )
        return self

    @model_validator(mode="after")
    def _rates_are_read(self) -> "TrainingConfig":
        """Rprop finds the size of its steps itself, a number at a time."""
        where = "optimizer" if self.mode == "synchronous" else "local.optimizer"
        given = self.optimizer if self.mode == "synchronous" else self.local.optimizer
        if given is not None and named_rule(given)[0] == "rprop" and (self.rates or self.schedule != "constant"):
            raise ValueError(
                f"{where} is 'rprop', which finds the size of its steps itself and reads neither rates nor schedule; "
                "leave them out"
            )
        return self

    @model_validator(mode="after")
    def _batch_size_fits_mode(self) -> "TrainingConfig":
        if self.mode == "local" and self.batch_size is not None:
            raise ValueError(f"batch_size is {self.batch_size} but in mode 'local' it is local.batch_size that is read")
        return self

    @model_validator(mode="after")
    def _head_rounds_fit(self) -> "TrainingConfig":
        if self.head_rounds > self.rounds:
            raise ValueError(f"head_rounds is {self.head_rounds}, but there are {self.rounds} rounds in all; lower it")
        return self

    def uncovered(self, recipe: Recipe, protect: str) -> str | None:
        """What of a client's answers nobody accounts for where something is protected, in a sentence; None: nothing.

        Args:
            recipe: Of the run.
            protect: What `privacy.protect` says.
        """
        if protect != "nothing" and recipe.in_units:
            return (
                f"privacy.protect is {protect!r}, and recipe.units is 'features', whose size nobody has bounded; "
                "set recipe.units: raw, or protect nothing"
            )
        if protect != "examples":
            return None
        if recipe.uncovered is not None:
            return f"privacy.protect is 'examples', and recipe {recipe.name!r} {recipe.uncovered}, or protect nothing"
        if self.head_rounds:
            return (
                f"training.head_rounds is {self.head_rounds}, and where privacy.protect is 'examples' all parameters "
                "are clipped and disturbed together; set it to 0, or freeze the featurizer"
            )
        return None

    def weighs_by_counts(self, protect: str, secure: bool) -> str | None:
        """Why classes cannot be balanced where a client's counts are not to be known, in a sentence; None if they can.

        Args:
            protect: What `privacy.protect` says.
            secure: Whether sums are secure.
        """
        if self.class_weights != "balanced" or not (protect == "examples" or secure):
            return None
        return (
            "training.class_weights is 'balanced', by each client's own counts of its classes, which "
            f"{'privacy.secure_aggregation hides' if secure else 'no noise covers'}; give a list of weights"
        )


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
