"""The training section: what a round does at the server and at a client."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedha import plugins
from fedha.config.section import MAY_CHANGE, Section
from fedha.named import is_own
from fedha.rules.table import RULES, named_rule, of_mode
from fedha.schema import nearest


class LocalConfig(Section):
    """What a client does between two exchanges in local mode."""

    steps: int | None = Field(None, ge=1, description="steps a round; give steps or epochs")
    epochs: int | None = Field(None, ge=1, description="epochs a round; give steps or epochs")
    batch_size: int | None = Field(None, ge=1, description="examples a step; null: the whole domain")
    measure: Literal["all", "batch"] | Annotated[int, Field(ge=1)] = Field(
        "all", description="examples that statistics are of: all, so many drawn each round, or the first step's batch"
    )
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="the clients' optimiser, fresh each round")
    learning_rate: float = Field(0.1, gt=0, description="of the clients' optimiser")
    momentum: float = Field(0.0, ge=0, lt=1, description="of the clients' SGD")

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
        description="the server's rule: sgd or adam (synchronous), fedavg, fedavgm, fedadam or scaffold (local), or "
        "your own as package.module:function; with arguments: {name: …, argument: …}",
    )
    learning_rate: float | None = Field(None, gt=0, description="of the server's optimiser")
    momentum: float | None = Field(None, ge=0, lt=1, description="of sgd and fedavgm")
    weight_decay: float = Field(
        0.0, ge=0, description="L2: adds this times the squared norm of all parameters to the loss"
    )
    schedule: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="of the learning rate over the rounds"
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
        description="examples that go through the network in one piece; default: by the model, within 256 MiB",
    )
    local: LocalConfig = LocalConfig()

    @field_validator("optimizer", mode="before")
    @classmethod
    def _name_or_mapping(cls, value: Any) -> Any:
        given = value.get("name") if isinstance(value, dict) else value
        if value is not None and not isinstance(given, str):
            raise ValueError(f"{value!r} names no rule; give a name, or {{name: …, argument: …}}")
        return value

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
        if is_own(plugins.place(plugins.RULES, name)) or name == "objects":
            return self
        allowed, own = of_mode(self.mode), "or name your own rule as package.module:function"
        if name not in RULES:
            raise ValueError(
                f"there is no optimizer {name!r}{nearest(name, [*allowed, *plugins.installed(plugins.RULES)])}; {own}"
            )
        if name not in allowed:
            raise ValueError(f"optimizer is {name!r} but mode {self.mode!r} takes {' or '.join(allowed)}")
        if options:
            raise ValueError(f"optimizer {name!r} takes no {', '.join(options)}; leave it out")
        return self

    @model_validator(mode="after")
    def _batch_size_fits_mode(self) -> "TrainingConfig":
        if self.mode == "local" and self.batch_size is not None:
            raise ValueError(f"batch_size is {self.batch_size} but in mode 'local' it is local.batch_size that is read")
        return self
