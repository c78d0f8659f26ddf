"""The model section: which network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from fedha import plugins
from fedha.config.section import ELSEWHERE, Section
from fedha.named import is_own
from fedha.schema import nearest


class FeaturesConfig(Section):
    """What is made of the features of a frozen network, which are computed once."""

    cache: Path | None = Field(
        None,
        json_schema_extra=ELSEWHERE,
        description="folder where they are kept for other runs; default: in memory alone",
    )
    precision: Literal["float32", "float16"] = Field(
        "float32", description="float16: they are rounded to it, and take half the space"
    )
    views: int = Field(
        0,
        ge=0,
        le=10_000,
        description="of each image that data.augment changes: so many are drawn and computed once, and each round "
        "takes one of them; 0: it is drawn, and computed, afresh each time",
    )

    @field_validator("cache", mode="before")
    @classmethod
    def _a_folder(cls, cache: Any) -> Any:
        if cache == "":  # which would be the folder where one happens to be
            raise ValueError("it names no folder; leave it out, or name one")
        return cache


class StartConfig(Section):
    """Another run whose model a run begins with."""

    run: Path = Field(description="its folder; in a deployment, of the server's runs")
    rule: str = Field("final", description="the round that this selection rule chose; final: the last one")
    round: int | None = Field(None, ge=1, description="this round, whatever a rule says")

    @model_validator(mode="after")
    def _one_choice(self) -> "StartConfig":
        if self.round is not None and self.rule != "final":
            raise ValueError(f"round {self.round} and rule {self.rule!r} both choose a round; leave one out")
        return self

    @model_serializer(mode="plain")
    def _shortly(self) -> Any:
        chosen = {"round": self.round} if self.round is not None else {"rule": self.rule}
        return str(self.run) if chosen == {"rule": "final"} else {"run": str(self.run), **chosen}

    def __str__(self) -> str:
        chosen = f", round {self.round}" if self.round is not None else f", rule {self.rule}"
        return f"{self.run}{'' if (self.round, self.rule) == (None, 'final') else chosen}"


class ModelConfig(Section):
    """The network: a featurizer and a head."""

    name: str = Field(
        "mlp", description="mlp, cnn or linear (no featurizer), or your own function as package.module:function"
    )
    options: dict[str, Any] = Field(
        {}, description="arguments of your own function: all that the section gives beside its name"
    )
    hidden: list[Annotated[int, Field(ge=1)]] = Field([128], description="mlp: layer widths; cnn: channels")
    head_hidden: list[Annotated[int, Field(ge=1)]] = Field([], description="layer widths of a head that is not linear")
    one_logit: bool = Field(False, description="two classes with one logit (Colored MNIST's published network)")
    init: Literal["default", "xavier"] = Field("default", description="torch's initialisation, or Xavier uniform")
    precision: Literal["float32", "float64", "mixed"] = Field(
        "float32",
        description="of parameters, statistics and sums; mixed: float32, with the featurizer in bfloat16; your own "
        "network is as your function makes it where this is float32",
    )
    start: StartConfig | None = Field(
        None,
        description="a finished run whose model this one begins with: its folder, or {run: DIR, rule: NAME} or "
        "{run: DIR, round: N} for the model of another round than the last",
    )
    start_head: bool = Field(True, description="with start: whether its head is taken too, or a new one begun")
    batch_norm: Literal["frozen", "averaged", "local"] | None = Field(
        None,
        description="running statistics of your own network: frozen, averaged by the server, or local to each client "
        "with weight and bias (FedBN); default: as the network says, frozen if it does not",
    )
    representation: Literal["point", "gaussian"] | None = Field(
        None,
        description="what the featurizer gives of an example: a point, or a Gaussian of which the head draws (FedSR); "
        "default: as the recipe asks",
    )
    features: FeaturesConfig = Field(FeaturesConfig(), description="of a frozen network, computed once")

    @model_validator(mode="before")
    @classmethod
    def _own_arguments(cls, content: Any) -> Any:
        """A function of somebody's own gets the rest of the section; what was written before has it in options."""
        if not isinstance(content, dict) or "options" in content:
            return content
        if not is_own(plugins.location(plugins.MODELS, str(content.get("name")))):
            return content
        ours = {key: content[key] for key in _OURS if key in content}
        if isinstance(content.get("features"), Mapping):  # else it is an argument of the function
            ours["features"] = content["features"]
        elif content.get("features", 0) is None and content["name"] in plugins.BUILT_IN[plugins.MODELS]:
            content = {key: value for key, value in content.items() if key != "features"}  # none are kept: the default
        return {**ours, "options": {key: value for key, value in content.items() if key not in ours}}

    @field_validator("start", mode="before")
    @classmethod
    def _by_its_folder(cls, start: Any) -> Any:
        return {"run": start} if isinstance(start, str | Path) else start

    @model_validator(mode="after")
    def _head_of_a_start(self) -> "ModelConfig":
        if self.start is None and not self.start_head:
            raise ValueError("start_head is false, but there is no start whose head could be left; leave it out")
        return self

    @model_validator(mode="after")
    def _known_or_own(self) -> "ModelConfig":
        known: tuple[str, ...] = ("mlp", "cnn", "linear")
        if is_own(plugins.location(plugins.MODELS, self.name)) or self.name == "objects":
            return self
        if self.name not in known:
            known = (*known, *plugins.known(plugins.MODELS))
            own = "or name your own function as package.module:function"
            raise ValueError(f"there is no network {self.name!r}{nearest(self.name, known, own)}")
        if self.batch_norm is not None:
            raise ValueError(f"network {self.name!r} has no batch norm; leave out batch_norm")
        if self.options:
            raise ValueError(f"network {self.name!r} takes no options, got {', '.join(self.options)}; leave them out")
        return self

    @model_serializer(mode="wrap")
    def _own_keys(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        usual = {key: field.get_default() for key, field in type(self).model_fields.items()}
        unread = [key for key in usual if not reads(self.name, key) and getattr(self, key) == usual[key]]
        return {key: value for key, value in write(self).items() if key not in unread}

    @property
    def unread(self) -> list[str]:
        """What is set and not read by this network, a sentence each."""
        usual = {key: field.get_default() for key, field in type(self).model_fields.items()}
        idle = [key for key in usual if not reads(self.name, key) and getattr(self, key) != usual[key]]
        return [f"model.{key} is {getattr(self, key)}, which network {self.name!r} does not read" for key in idle]


# Keys of the section that a function of somebody's own does not get.
_OURS = ("name", "batch_norm", "precision", "start", "start_head", "representation")

# Networks that read a key; all others are read by each. "own" is a function of somebody's, or an object.
_NETWORKS: Mapping[str, tuple[str, ...]] = {
    "options": ("own",),
    "hidden": ("mlp", "cnn"),
    "head_hidden": ("mlp", "cnn", "linear"),
    "one_logit": ("mlp", "cnn", "linear"),
    "init": ("mlp", "cnn", "linear"),
    "features": ("own",),
}


def reads(network: str, key: str) -> bool:
    """Whether a network reads a key of the section."""
    kind = network if network in ("mlp", "cnn", "linear") else "own"
    return kind in _NETWORKS.get(key, (kind,))
