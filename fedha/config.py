"""The one schema of an experiment: what a YAML file may say, with its defaults."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from fedha import plugins
from fedha.errors import FedhaError
from fedha.named import call, is_own
from fedha.recipes import Recipe, Term, known_rows, row
from fedha.registry import add_statistic, known, moments, statistic
from fedha.rules.table import RULES, allow, named_rule, of_mode
from fedha.schema import explained, nearest, numbers_as_written, refusal, types_in
from fedha.yamlfile import parse_yaml, read_yaml

# What may be changed in a run that has begun says so; everything else was what its past rounds were made with.
_MAY_CHANGE: dict[str, JsonValue] = {"may_change": True}
_ELSEWHERE: dict[str, JsonValue] = {
    "may_change": True,
    "elsewhere": True,
}  # where it runs: results agree, at most up to rounding

POOLED = "all sources"  # stands in the place of domains' names where secure sums are all that the server learns


class _Section(BaseModel):
    """A part of the config: unknown keys are errors, values cannot change after reading.

    Raises:
        FedhaError: As `parse`, where one is made by its name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # where types are checked, the fields make the signature

        def __init__(self, **content):
            with refusal(type(self)):
                super().__init__(**content)

        # So a section within a section is validated by the outer one, which names all problems at once.
        __init__.__pydantic_base_init__ = True

    @model_validator(mode="before")
    @classmethod
    def _numbers_as_written(cls, content: Any) -> Any:
        return numbers_as_written(cls, content)


DATA_SETS = ("colored_digits", "colored_mnist", "heart", "arrays", "folder", "objects")


def _of(*data_sets: str, **more: JsonValue) -> dict[str, JsonValue]:
    """Marks a key that these data sets alone read; "own" stands for a function of somebody's."""
    return {"of": list(data_sets), **more}


_COLORED, _NATURAL = _of("colored_digits", "colored_mnist"), _of("heart", "arrays", "folder", "own")


class DataConfig(_Section):
    """Which domains, and where they come from. A data set's section has its own keys, and no other's."""

    name: str = Field(
        "colored_digits",
        description="the data set: colored_digits (needs no file), colored_mnist, heart, arrays, folder (of "
        "images), one of an installed package, or your own function as package.module:function",
    )
    root: Path | None = Field(None, json_schema_extra=_ELSEWHERE, description="folder of the files")
    download: bool = Field(
        False,
        json_schema_extra=_of("colored_mnist", **_ELSEWHERE),
        description="fetch missing files into root, checked by checksum",
    )
    sources: list[str] | None = Field(
        None, json_schema_extra=_NATURAL, description="the source domains; default: all but the target"
    )
    target: str | None = Field(
        None,
        json_schema_extra=_NATURAL,
        description="the unseen domain; of your own data one or a list, whose first is the tables'",
    )
    classes: int | None = Field(
        None,
        ge=2,
        json_schema_extra=_of("arrays", "own"),
        description="number of classes; default: one more than the highest label",
    )
    unlabelled: int | None = Field(
        None,
        json_schema_extra=_of("arrays"),
        description="the label, such as 255 or -1, of rows without one; they are left out and counted",
    )
    layout: Literal["auto", "channels_first", "channels_last"] = Field(
        "auto",
        json_schema_extra=_of("arrays"),
        description="where [n, a, b, c] has its channels; auto: recognised, or asked for",
    )
    scale: float | None = Field(
        None,
        gt=0,
        json_schema_extra=_of("arrays"),
        description="inputs are divided by this; default: 255 for images of uint8, 65535 of uint16, else 1",
    )
    class_names: list[str] | None = Field(
        None,
        min_length=2,
        json_schema_extra=_of("folder"),
        description="the classes in the order of their labels; default: the domains' class folders, sorted",
    )
    size: int | None = Field(
        None, ge=1, le=4096, json_schema_extra=_of("folder"), description="pixels a side of every image; default: 32"
    )
    channels: int | None = Field(
        None,
        ge=1,
        le=3,
        json_schema_extra=_of("folder"),
        description="1: grey, 3: colour; default: as the sources' first images are",
    )
    on_broken: Literal["error", "skip"] = Field(
        "error",
        json_schema_extra=_of("folder"),
        description="an image that cannot be decoded ends the run, or is left out and counted",
    )
    cache: Path | None = Field(
        None,
        json_schema_extra=_of("folder", **_ELSEWHERE),
        description="folder for decoded images, made once; default: they are decoded whenever they are taken",
    )
    held_out: float = Field(
        0.2,
        ge=0,
        lt=1,
        json_schema_extra=_of("colored_digits", "colored_mnist", "heart", "arrays", "folder", "own"),
        description="share of each source domain kept for evaluation",
    )
    split: Literal["stratified", "random"] = Field(
        "stratified",
        description="who is held out, and who gets what of a shared domain: each label and group in proportion, or by "
        "chance alone (as DomainBed)",
    )
    color_flips: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        [0.2, 0.1],
        min_length=1,
        json_schema_extra=_COLORED,
        description="share of colours that disagree, a source domain each",
    )
    target_color_flip: float = Field(
        0.9, ge=0, le=1, json_schema_extra=_COLORED, description="the same, for the unseen target"
    )
    label_noise: float = Field(0.25, ge=0, le=1, json_schema_extra=_COLORED, description="share of labels flipped")
    grayscale_target: bool = Field(
        False, json_schema_extra=_COLORED, description="add the target without colour as another column"
    )
    imbalance: Literal["none", "clean", "paper_code"] = Field(
        "none",
        json_schema_extra=_of("colored_mnist"),
        description="label shift between the sources (see docs/guide.md)",
    )
    clients_per_domain: int = Field(1, ge=1, description="clients that share each source domain's examples")
    imbalance_ratio: float = Field(
        0.97, gt=0.5, lt=1, json_schema_extra=_of("colored_mnist"), description="majority class ratio a domain"
    )
    digest: str | None = Field(None, json_schema_extra=_of("objects"), description="which ones they were")
    more_targets: list[str] = Field([], json_schema_extra=_of("own"), description="the others of a list of targets")
    options: dict[str, Any] = Field(
        {}, json_schema_extra=_of("own"), description="your function's arguments: all other keys of the section"
    )

    @model_validator(mode="before")
    @classmethod
    def _own_arguments(cls, content: Any) -> Any:
        """A function of somebody's own gets the section's other keys; what was written before has them in options."""
        if not isinstance(content, dict) or _kind_of(str(content.get("name"))) != "own":
            return content
        if isinstance(content.get("target"), list) and content["target"]:
            first, *more = content["target"]
            content = {**content, "target": first, "more_targets": more}
        if "options" in content:
            return content
        ours = keys_of(content["name"])
        shared = {key: value for key, value in content.items() if key in ours}
        return {**shared, "options": {key: value for key, value in content.items() if key not in ours}}

    @field_validator("channels")
    @classmethod
    def _grey_or_colour(cls, channels: int | None) -> int | None:
        if channels == 2:
            raise ValueError("an image has 1 channel, grey, or 3, red, green and blue")
        return channels

    @field_validator("class_names")
    @classmethod
    def _each_once(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and len(set(names)) < len(names):
            raise ValueError("a class is named twice; name each once")
        return names

    @model_validator(mode="after")
    def _known_and_read(self) -> "DataConfig":
        if _kind_of(self.name) is None:
            known = (*(name for name in DATA_SETS if name != "objects"), *plugins.installed(plugins.DATA))
            raise ValueError(
                f"there is no data set {self.name!r}{nearest(self.name, known)}; or name your own function as "
                "package.module:function"
            )
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if key not in keys_of(self.name) and value != field.get_default():
                own = ", ".join(one for one in keys_of(self.name) if one not in ("name", "digest"))
                raise ValueError(
                    f"data.{key} is {value!r}, which {self.name} does not read; remove it, or take "
                    f"{', '.join(_readers(key))} ({self.name} reads {own})"
                )
        return self

    @model_serializer(mode="wrap")
    def _own_keys(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key in keys_of(self.name)}

    @property
    def targets(self) -> list[str]:
        """The unseen domains that are named."""
        return [] if self.target is None else [self.target, *self.more_targets]


def _kind_of(name: str) -> str | None:
    """A data set of fedha's, "own" for somebody's, or None for one that nobody knows."""
    if name in DATA_SETS:
        return name
    return "own" if is_own(plugins.place(plugins.DATA, name)) else None


def keys_of(data_set: str) -> tuple[str, ...]:
    """The keys that a data set's section may have, by its name."""
    kind = _kind_of(data_set)
    readers = {key: _readers(key) for key in DataConfig.model_fields}
    return tuple(key for key, names in readers.items() if not names or kind in names)


def without_others(content: Mapping[str, Any]) -> dict[str, Any]:
    """A config's content as it is written today: an earlier version wrote all data sets' and networks' keys."""
    data, model, kept = content.get("data"), content.get("model"), dict(content)
    if isinstance(data, Mapping):
        unread = set(DataConfig.model_fields).difference(keys_of(str(data.get("name"))))
        kept["data"] = {key: value for key, value in data.items() if key not in unread}
    if isinstance(model, Mapping):
        usual = {key: field.get_default() for key, field in ModelConfig.model_fields.items()}
        name = str(model.get("name"))
        kept["model"] = {
            key: value for key, value in model.items() if _reads(name, key) or value != usual.get(key, value)
        }
    return kept


def _readers(key: str) -> list[Any]:
    """The data sets that read a key; none where all do."""
    extra = DataConfig.model_fields[key].json_schema_extra
    found = extra.get("of", []) if isinstance(extra, dict) else []
    return found if isinstance(found, list) else []


class ModelConfig(_Section):
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
        "float32", description="of parameters, statistics and sums; mixed: float32, with the featurizer in bfloat16"
    )
    batch_norm: Literal["frozen", "averaged", "local"] | None = Field(
        None,
        description="running statistics of your own network: frozen, averaged by the server, or local to each client "
        "with weight and bias (FedBN); default: as the network says, frozen if it does not",
    )

    @model_validator(mode="before")
    @classmethod
    def _own_arguments(cls, content: Any) -> Any:
        """A function of somebody's own gets the rest of the section; what was written before has it in options."""
        if not isinstance(content, dict) or "options" in content:
            return content
        if not is_own(plugins.place(plugins.MODELS, str(content.get("name")))):
            return content
        ours = {key: content[key] for key in ("name", "batch_norm") if key in content}
        return {**ours, "options": {key: value for key, value in content.items() if key not in ours}}

    @model_validator(mode="after")
    def _known_or_own(self) -> "ModelConfig":
        known: tuple[str, ...] = ("mlp", "cnn", "linear")
        if is_own(plugins.place(plugins.MODELS, self.name)) or self.name == "objects":
            return self
        if self.name not in known:
            known = (*known, *plugins.installed(plugins.MODELS))
            own = "or name your own function as package.module:function"
            raise ValueError(f"there is no network {self.name!r}{nearest(self.name, known)}; {own}")
        if self.batch_norm is not None:
            raise ValueError(f"network {self.name!r} has no batch norm; leave out batch_norm")
        if self.options:
            raise ValueError(f"network {self.name!r} takes no options, got {', '.join(self.options)}; leave them out")
        return self

    @model_serializer(mode="wrap")
    def _own_keys(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        usual = {key: field.get_default() for key, field in type(self).model_fields.items()}
        unread = [key for key in usual if not _reads(self.name, key) and getattr(self, key) == usual[key]]
        return {key: value for key, value in write(self).items() if key not in unread}

    @property
    def unread(self) -> list[str]:
        """What is set and not read by this network, a sentence each."""
        usual = {key: field.get_default() for key, field in type(self).model_fields.items()}
        idle = [key for key in usual if not _reads(self.name, key) and getattr(self, key) != usual[key]]
        return [f"model.{key} is {getattr(self, key)}, which network {self.name!r} does not read" for key in idle]


# Networks that read a key; all others are read by each. "own" is a function of somebody's, or an object.
_NETWORKS: Mapping[str, tuple[str, ...]] = {
    "options": ("own",),
    "hidden": ("mlp", "cnn"),
    "head_hidden": ("mlp", "cnn", "linear"),
    "one_logit": ("mlp", "cnn", "linear"),
    "init": ("mlp", "cnn", "linear"),
    "precision": ("mlp", "cnn", "linear"),
}


def _reads(network: str, key: str) -> bool:
    kind = network if network in ("mlp", "cnn", "linear") else "own"
    return kind in _NETWORKS.get(key, (kind,))


class RecipeConfig(_Section):
    """A row of the table (`fedha recipes`), or one of your own."""

    name: str = Field("custom", description="a row's name; any other name needs `align`")
    align: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description="weight of each statistic, your own as package.module:function; for a row, overrides its weights",
    )
    gradient_weight: float | None = Field(None, ge=0, description="weight of the row's gradient term")
    hessian_weight: float | None = Field(None, ge=0, description="weight of the row's second-order terms")
    weight: float = Field(1.0, ge=0, description="multiplies every term after the warm-up")
    warmup_rounds: int = Field(0, ge=0, description="rounds at warmup_weight before weight takes over")
    warmup_weight: float = Field(1.0, ge=0, description="weight during the warm-up")
    rescale: bool = Field(False, description="divide the whole loss by the weight while it is over 1 (IRM's habit)")
    reset_optimizer: bool = Field(False, description="start the server's optimiser afresh when the warm-up ends")
    probes: int | None = Field(None, ge=1, description="hutchinson rows: sign vectors a round")
    moving_average: float | None = Field(None, ge=0, lt=1, description="fishr, fediir: decay of the moving average")
    step_size: float | None = Field(None, gt=0, description="groupdro: step of the domain weights")

    @model_validator(mode="after")
    def _row_or_terms(self) -> "RecipeConfig":
        if row(self.name) is None and not self.align:
            raise ValueError(
                f"recipe {self.name!r} is no row of the table{nearest(self.name, known_rows())}; "
                "or give `align: {statistic: weight}` to make your own"
            )
        if self.align == {}:
            raise ValueError("align is empty; leave it out for the row's own terms, or take recipe erm for none")
        if self.align and (self.gradient_weight is not None or self.hessian_weight is not None):
            raise ValueError("align gives every weight; leave out gradient_weight and hessian_weight")
        for name in self.align or {}:
            if is_own(name):
                add_statistic(call("recipe.align", name, {}, {}), name)
            elif name not in known():
                raise ValueError(f"no statistic {name!r}{nearest(name, known())}; your own is package.module:function")
        self._check_used()
        return self

    def _check_used(self) -> None:
        """A setting that would change nothing is an error, not a surprise."""
        recipe = self.resolve()
        orders = {statistic(term.statistic).order for term in recipe.terms}
        used = {
            "gradient_weight": 1 in orders,
            "hessian_weight": 2 in orders,
            "probes": any(t.per_probe or statistic(t.statistic).signs for t in recipe.terms),
            "moving_average": any(
                t.client_average or t.reference_average for t in (row(self.name) or Recipe(self.name)).terms
            ),
            "step_size": recipe.weighting == "risk",
        }
        idle = [key for key, uses in used.items() if getattr(self, key) is not None and not uses]
        if idle:
            raise ValueError(f"recipe {self.name!r} does not use {' or '.join(idle)}; leave it out")

    def resolve(self) -> Recipe:
        """The recipe this describes: the table's row, or new terms, with the given weights and schedule."""
        found = row(self.name) or Recipe(self.name, source="this config")
        known = {term.statistic: term for term in found.terms}
        terms = [self._weighted(term) for term in found.terms]
        if self.align is not None:
            terms = [replace(known.get(name, Term(name)), weight=weight) for name, weight in self.align.items()]
        given = {key: value for key in ("probes", "step_size") if (value := getattr(self, key)) is not None}
        schedule = {
            key: getattr(self, key)
            for key in ("weight", "warmup_rounds", "warmup_weight", "rescale", "reset_optimizer")
        }
        return replace(found, terms=tuple(self._averaged(term) for term in terms), **schedule, **given)

    def _weighted(self, term: Term) -> Term:
        weight = {1: self.gradient_weight, 2: self.hessian_weight}.get(statistic(term.statistic).order)
        return term if weight is None else replace(term, weight=weight)

    def _averaged(self, term: Term) -> Term:
        if self.moving_average is None:
            return term
        client = self.moving_average if term.client_average else 0.0
        reference = self.moving_average if term.reference_average else 0.0
        return replace(term, client_average=client, reference_average=reference)


class LocalConfig(_Section):
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


class TrainingConfig(_Section):
    """How the federation trains."""

    mode: Literal["synchronous", "local"] = Field(
        "synchronous", description="one step a round on the server, or several local steps a client"
    )
    rounds: int = Field(100, ge=1, json_schema_extra=_MAY_CHANGE, description="number of rounds")
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


class EvaluationConfig(_Section):
    """What is evaluated, and when."""

    every: int = Field(1, ge=1, json_schema_extra=_MAY_CHANGE, description="evaluate each k-th round, and the last")
    leave_one_domain_out: bool = Field(
        False, description="also train without each source in turn, for the leave-one-domain-out selection rule"
    )


class CheckpointConfig(_Section):
    """What `fedha resume` continues from."""

    every: int = Field(50, ge=1, description="save each k-th round, and the last")
    minutes: float | None = Field(
        5.0, gt=0, description="save also where so many minutes have passed since the last time; null: never"
    )


class EngineConfig(_Section):
    """Where clients run."""

    name: Literal["auto", "inline", "ray", "flower"] = Field(
        "auto",
        json_schema_extra=_ELSEWHERE,
        description="auto picks; inline: this process; ray: worker processes; flower: flwr run",
    )
    threads: int = Field(
        1, ge=1, json_schema_extra=_ELSEWHERE, description="torch threads a client; a sum's bits depend on it"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", json_schema_extra=_ELSEWHERE, description="where clients compute; auto: on a GPU if any"
    )
    workers: int | None = Field(
        None,
        ge=1,
        json_schema_extra=_ELSEWHERE,
        description="ray: processes; default: cores over threads, or by the GPUs",
    )
    clients_per_gpu: int = Field(
        1,
        ge=1,
        json_schema_extra=_ELSEWHERE,
        description="ray: workers that share a GPU, each with its part of the memory",
    )
    batching: bool | None = Field(
        None,
        json_schema_extra=_ELSEWHERE,
        description="train small clients of a process together; default: with ray, whose bits then differ",
    )
    address: str | None = Field(
        None, json_schema_extra=_ELSEWHERE, description="ray: a running cluster, such as auto or ray://head:10001"
    )
    on_client_error: Literal["stop", "skip"] = Field(
        "stop",
        description="a client that fails, or whose answer does not count, ends the run, or is left out and counted",
    )
    client_timeout: float | None = Field(
        None, gt=0, json_schema_extra=_ELSEWHERE, description="ray: seconds a client may take for one answer"
    )


class FederationConfig(_Section):
    """How server and clients of a deployment wait for each other, and how often they talk."""

    schedule: Literal["exact", "piggyback"] = Field(
        "exact",
        description="exact: an exchange for each step; piggyback: one a round, statistics and evaluation ride along",
    )
    clients: int | None = Field(None, ge=1, description="deployment: how many there are; default: by the data")
    min_clients: int | None = Field(
        None,
        ge=1,
        json_schema_extra=_MAY_CHANGE,
        description="a round goes on with so many; default: all of the round's",
    )
    on_missing: Literal["stop", "wait", "skip"] = Field(
        "wait",
        json_schema_extra=_MAY_CHANGE,
        description="a client that is gone or silent ends the run, is waited for, or is left out of the round",
    )
    timeout: float = Field(
        3600.0,
        gt=0,
        json_schema_extra=_MAY_CHANGE,
        description="seconds for one exchange; who is silent for longer is missing",
    )
    patience: float = Field(
        86400.0,
        gt=0,
        json_schema_extra=_MAY_CHANGE,
        description="seconds to wait for clients that are missing, before the run ends and can be resumed",
    )


class PrivacyConfig(_Section):
    """What a client's answers may give away."""

    protect: Literal["nothing", "examples", "clients"] = Field(
        "nothing",
        description="examples: clip and noise at each client, so that no example shows; clients: the same on the sum",
    )
    noise_multiplier: float | None = Field(
        None, gt=0, description="deviation of the noise over the clipping norm; `fedha privacy plan` finds it"
    )
    clip: float = Field(1.0, gt=0, description="largest norm of one example's gradient, or of one client's update")
    statistics_noise: float = Field(1.0, gt=0, description="noise of the statistics, in units of noise_multiplier")
    statistics_clip: float = Field(
        1.0, gt=0, description="largest norm of what one example, or one client, adds to the statistics"
    )
    scales: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="examples: public factor of a moment in the joint clip, such as {hessian_diagonal: 0.1}"
    )
    evaluation_noise: float | None = Field(
        None, gt=0, description="examples: noise multiplier of the held-out accuracy; null: it is not sent"
    )
    sampling: Literal["whole", "poisson", "shuffled"] = Field(
        "whole", description="how local steps draw examples, and what the accountant assumes"
    )
    delta: float | None = Field(None, gt=0, lt=1, description="default: a tenth of one over the client's examples")
    max_epsilon: float | None = Field(
        None, gt=0, json_schema_extra=_MAY_CHANGE, description="training ends before a client spends more"
    )
    min_examples: int = Field(1, ge=1, description="a client with fewer does not answer")
    guard_heads: bool = Field(
        True, description="examples: a client does not answer where the head looks crafted: rows alike, or huge"
    )
    secure_aggregation: bool = Field(False, description="an honest but curious server learns sums alone")
    threshold: int | None = Field(None, ge=2, description="secure sums: so many clients must stay to the end")
    minimum: int = Field(3, ge=2, description="secure sums: none of fewer clients is learnt")
    bound: float = Field(65536.0, gt=0, description="secure sums: largest absolute value that can be sent")

    @field_validator("scales")
    @classmethod
    def _moments_are_known(cls, scales: dict[str, float]) -> dict[str, float]:
        for name in scales:
            if name not in moments():
                raise ValueError(f"no moment {name!r}{nearest(name, moments())}")
        return scales

    @model_validator(mode="after")
    def _noise_is_given(self) -> "PrivacyConfig":
        if self.protect != "nothing" and self.noise_multiplier is None:
            raise ValueError(
                f"protect is {self.protect!r}, which takes noise; give noise_multiplier: "
                "`fedha privacy plan CONFIG` finds the one that a budget needs"
            )
        return self


class Config(_Section):
    """One experiment; several recipes or seeds make several runs."""

    name: str = Field("experiment", min_length=1, description="what the run's folder and report are called")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    recipe: list[RecipeConfig] = Field([RecipeConfig(name="hgp")], min_length=1, description="one or several")
    seed: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1, description="one or several")
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), json_schema_extra=_ELSEWHERE)
    federation: FederationConfig = FederationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    engine: EngineConfig = Field(EngineConfig(), json_schema_extra=_MAY_CHANGE)

    @field_validator("name")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError(f"{value!r} has characters that cannot be printed; use letters, digits and punctuation")
        return value

    @field_validator("recipe", mode="before")
    @classmethod
    def _recipes(cls, value: Any) -> Any:
        many = value if isinstance(value, list) else [value]
        return [{"name": one} if isinstance(one, str) else one for one in many]

    @field_validator("seed", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    @model_validator(mode="after")
    def _schedule_fits_recipe(self) -> "Config":
        for recipe in self.recipe if self.federation.schedule == "piggyback" else ():
            if any(term.target == "others" for term in recipe.resolve().terms):
                raise ValueError(
                    f"recipe {recipe.name!r} subtracts a client's own statistic from the mean, so both must be of one "
                    "model; set federation.schedule to exact"
                )
        return self

    @model_validator(mode="after")
    def _shares_fit_recipe(self) -> "Config":
        for recipe in self.recipe:
            if self.training.averaging == "examples" and any(t.target == "others" for t in recipe.resolve().terms):
                raise ValueError(
                    f"recipe {recipe.name!r} takes pairs of domains alike; set training.averaging to domains"
                )
        return self

    @model_validator(mode="after")
    def _batches_fit_recipe(self) -> "Config":
        size = self.training.local.batch_size if self.training.mode == "local" else None
        for recipe in self.recipe if size is not None and self.privacy.protect != "examples" else ():
            row = recipe.resolve()
            if size is not None and size < row.least_examples:
                raise ValueError(
                    f"training.local.batch_size is {size} but recipe {recipe.name!r} aligns {row.most_demanding}, "
                    f"which needs {row.least_examples} examples in each minibatch; raise it"
                )
        return self

    @model_validator(mode="after")
    def _rule_fits(self) -> "Config":
        """What a rule of the table refuses is said where the config is read; somebody's own is made where it runs."""
        allow(self.training.optimizer)
        name = self.training.optimizer
        if isinstance(name, str) and name in RULES and RULES[name].at_clients:
            from fedha.rules.found import refusal, server_rule  # which know tensors, and are slow to import

            try:
                problem = refusal(server_rule(self.training), self.training, self.privacy)
            except FedhaError as error:
                raise ValueError(str(error)) from error
            if problem:
                raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _sums_fit_recipe(self) -> "Config":
        if not self.privacy.secure_aggregation:
            return self
        for recipe in self.recipe:
            if recipe.resolve().weighting == "risk":
                raise ValueError(
                    f"recipe {recipe.name!r} weighs each domain by its own risk, which the server does not learn with "
                    "privacy.secure_aggregation; set that to false, or take another recipe"
                )
        if self.training.client_sampling == "examples":
            raise ValueError(
                "training.client_sampling is 'examples' but with privacy.secure_aggregation the server does not learn "
                "how many examples a client has; set it to uniform"
            )
        for key, clients in (
            ("training.clients_per_round", self.training.clients_per_round),
            ("federation.clients", self.federation.clients),
        ):
            if isinstance(clients, int) and clients < self.privacy.minimum:
                raise ValueError(
                    f"{key} is {clients} but privacy.minimum is {self.privacy.minimum} for secure sums; raise it "
                    "(in a sum of two each client knows the other's part)"
                )
        return self

    @model_validator(mode="after")
    def _privacy_fits(self) -> "Config":
        if self.privacy.protect != "nothing":
            for problem in (self._uncovered_parts(), self._uncovered_steps(), self._uncovered_recipes()):
                if problem:
                    raise ValueError(f"privacy.protect is {self.privacy.protect!r}, but {problem}")
        return self

    def _uncovered_parts(self) -> str | None:
        if self.federation.schedule == "piggyback":
            return (
                "what rides along with an update is not accounted for; set federation.schedule to exact, or protect to "
                "nothing"
            )
        if self.evaluation.leave_one_domain_out:
            return (
                "each fold of leave-one-domain-out is a run over the same examples, which no ledger adds up; set "
                "evaluation.leave_one_domain_out to false"
            )
        return None

    def _uncovered_steps(self) -> str | None:
        """Batches that are not drawn as the accountant would believe; or weights that depend on who else is there."""
        training, sampling = self.training, self.privacy.sampling
        if self.privacy.protect == "clients":
            if training.averaging != "clients":
                return (
                    f"with training.averaging {training.averaging!r} a client's weight tells who else takes part; set "
                    "it to clients"
                )
            if self.privacy.secure_aggregation:
                return (
                    "the server cannot clip a client's answer that it never sees; leave out secure_aggregation, or "
                    "protect examples"
                )
            return None
        drawn = "training.batch_size" if training.mode == "synchronous" else "training.local.measure"
        if training.batch_size is not None or training.local.measure != "all":
            return f"{drawn} draws the examples that are measured, which no ledger knows of; leave it out"
        if training.mode == "synchronous":
            whole = "a synchronous step is one gradient over the whole domain; set privacy.sampling to whole"
            return None if sampling == "whole" else whole
        if (sampling == "whole") != (training.local.batch_size is None):
            return (
                f"privacy.sampling is {sampling!r} and training.local.batch_size {training.local.batch_size}; whole "
                "goes with null (every step sees every example), poisson and shuffled with a number"
            )
        return None

    def _uncovered_recipes(self) -> str | None:
        for given in self.recipe:
            recipe = given.resolve()
            active = [term.statistic for term in recipe.terms if term.weight > 0]
            if self.privacy.protect == "clients":
                if recipe.weighting == "risk":
                    return (
                        f"recipe {recipe.name!r} weighs clients by their risks, which are no part of a clipped sum; "
                        "take another recipe, or protect examples"
                    )
                continue
            for name in active:
                if reason := statistic(name).refusal:
                    return f"recipe {recipe.name!r} aligns {name}, which cannot be covered: {reason}"
            if self.model.head_hidden and (active or recipe.weighting == "risk"):
                return (
                    f"recipe {recipe.name!r} measures the head, which then must be linear; leave model.head_hidden "
                    "empty, or take recipe erm"
                )
        return None

    def runs(self) -> "list[Config]":
        """This config as single runs: one recipe and one seed each, recipes first."""
        return [
            self.model_copy(update={"recipe": [recipe], "seed": [seed]}) for recipe in self.recipe for seed in self.seed
        ]


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file.

    Args:
        path: A YAML file.
        overrides: Changes as ``key.key=value``; the value is YAML.

    Raises:
        FedhaError: The file is missing or is not YAML, or the content does not fit the schema.
    """
    return _parsed(_read(path), path, overrides)


def load_written(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config that a run wrote, of this version or an earlier one; arguments and errors as in `load`.

    What is written is whole, so what is not there could not be said yet: it is as it was then, not today's default.
    """
    return _parsed(_as_it_was(_read(path)), path, overrides)


def located(config: Config) -> Config:
    """The config with its paths absolute, and the home that a ``~`` means, so that it holds from any folder.

    Raises:
        FedhaError: A ``~name`` is nobody's.
    """
    paths = {"root": config.data.root, "cache": config.data.cache}
    whole = {key: expanded(path, f"data.{key}").absolute() for key, path in paths.items() if path is not None}
    return config.model_copy(update={"data": config.data.model_copy(update=whole)}) if whole else config


def expanded(path: Path, key: str = "data.root") -> Path:
    """A path with the home that its ``~`` means.

    Args:
        path: As it was written.
        key: Where.

    Raises:
        FedhaError: A ``~name`` is nobody's.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise FedhaError(f"{key} is {path}, and nobody here has that home; write the whole path") from error


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path, "the config")
    content = {} if content is None else content
    if not isinstance(content, dict):
        kind = "list" if isinstance(content, list) else "single value"
        raise FedhaError(f"{path} holds a {kind}; a config is a mapping such as `data: {{name: …}}`")
    return content


def _parsed(content: dict[str, Any], path: Path, overrides: Sequence[str]) -> Config:
    check_overrides(overrides)
    for override in overrides:
        apply_override(content, override)
    return parse(content, str(path))


def _as_it_was(content: dict[str, Any]) -> dict[str, Any]:
    """What an earlier version wrote, with what was not a choice then."""
    data = content.get("data", {})
    if not isinstance(data, dict):
        return content
    before = {"split": "random"}
    if data.get("name") == "arrays":
        before |= {"layout": "channels_first", "scale": "1"}
    return {**content, "data": before | data}


def parse(content: dict[str, Any], origin: str = "the config") -> Config:
    """Check a mapping against the schema.

    Raises:
        FedhaError: With every problem, its value and, for an unknown key, the nearest known one.
    """
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise explained(error, Config, origin) from error


def from_json(text: str) -> Config:
    """Read what `to_json` wrote, of this version or an earlier one."""
    return parse(_as_it_was(json.loads(text)))


def to_json(config: Config) -> str:
    """The whole config as one line of JSON, defaults included."""
    return config.model_dump_json()


def to_yaml(config: Config) -> str:
    """The whole config as YAML, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def check_overrides(overrides: Sequence[str]) -> None:
    """Whether no change of some undoes another.

    Raises:
        FedhaError: A key is given twice, or within what a later one replaces as a whole.
    """
    keys = [one.partition("=")[0].split(".") for one in overrides]
    for place, (key, override) in enumerate(zip(keys, overrides, strict=True)):
        for earlier, before in zip(keys[:place], overrides[:place], strict=True):
            within = key[len(earlier) :]  # of a section that was given as a whole, another key may be set
            if earlier[: len(key)] == key or (earlier == key[: len(earlier)] and _holds(before, within)):
                raise FedhaError(f"{before!r} and {override!r} set the same; keep one")


def _holds(override: str, keys: Sequence[str]) -> bool:
    """Whether an override gives a value for a key within its own, or for what that would be within."""
    held = parse_yaml(override.partition("=")[2], f"the value of {override!r}")
    for key in keys:
        if not isinstance(held, dict) or key not in held:
            return False  # what is no section cannot be gone into: applying it says so
        held = held[key]
    return True


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set ``a.b=value`` in a nested mapping, in place.

    Raises:
        FedhaError: No ``=``, a value that is not YAML, or a path through something that is not a mapping.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise FedhaError(f"{override!r} is no override; write key.key=value, such as training.rounds=20")
    parsed = parse_yaml(value, f"the value of {override!r}")
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise FedhaError(f"{override!r} goes through {parent!r}, which is not a mapping but {place!r}")
    place[last] = parsed


def may_change(key: str) -> bool:
    """Whether a key, with dots, may be changed in a run that has begun: it or its section says so in the schema."""
    return _says(key, "may_change")


def is_elsewhere(key: str) -> bool:
    """Whether a key, with dots, says where a run goes on and how often it is saved, and not what is computed."""
    return _says(key, "elsewhere")


def _says(key: str, what: str) -> bool:
    section: type[BaseModel] | None = Config
    for part in key.split("."):
        if section is None or part not in section.model_fields:
            return False
        field = section.model_fields[part]
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get(what):
            return True
        section = next((kind for kind in types_in(field.annotation) if issubclass(kind, BaseModel)), None)
    return False


def lasting(config: Config) -> str:
    """What stays of a run's config however it is resumed, as one line of JSON."""

    def rest(content: dict[str, Any], prefix: str) -> dict[str, Any]:
        kept = {key: value for key, value in content.items() if not may_change(f"{prefix}{key}")}
        return {
            key: rest(value, f"{prefix}{key}.") if isinstance(value, dict) else value for key, value in kept.items()
        }

    return json.dumps(rest(config.model_dump(mode="json"), ""))
