"""The data section: which domains, and where they come from."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from fedha import plugins
from fedha.config.section import ELSEWHERE, Section
from fedha.named import is_own
from fedha.schema import nearest, shown

DATA_SETS = ("colored_digits", "colored_mnist", "heart", "arrays", "folder", "objects")


def _of(*data_sets: str, **more: JsonValue) -> dict[str, JsonValue]:
    """Marks a key that these data sets alone read; "own" stands for a function of somebody's."""
    return {"of": list(data_sets), **more}


_COLORED, _NATURAL = _of("colored_digits", "colored_mnist"), _of("heart", "arrays", "folder", "own")


class DataConfig(Section):
    """Which domains, and where they come from. A data set's section has its own keys, and no other's."""

    name: str = Field(
        "colored_digits",
        description="the data set: colored_digits (needs no file), colored_mnist, heart, arrays, folder (of "
        "images), one of an installed package, or your own function as package.module:function",
    )
    root: Path | None = Field(None, json_schema_extra=ELSEWHERE, description="folder of the files")
    download: bool = Field(
        False,
        json_schema_extra=_of("colored_mnist", **ELSEWHERE),
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
    manifest: Path | None = Field(
        None,
        json_schema_extra=_of("folder", **ELSEWHERE),
        description="CSV file that lists the images instead of folders: path, domain, label, and split and group",
    )
    class_names: list[str] | None = Field(
        None,
        min_length=2,
        json_schema_extra=_of("folder"),
        description="the classes in the order of their labels; default: the domains' class folders, sorted",
    )
    size: int | None = Field(
        None,
        ge=1,
        le=4096,
        json_schema_extra=_of("folder"),
        description="pixels a side of every image; default: the network's, else 32",
    )
    channels: int | None = Field(
        None,
        ge=1,
        le=3,
        json_schema_extra=_of("folder"),
        description="1: grey, 3: colour; default: the network's, else as the sources' first images are",
    )
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = Field(
        None,
        json_schema_extra=_of("folder"),
        description="how images are resized; default: the network's, else bilinear",
    )
    decode: Literal["whole", "scaled"] = Field(
        "whole",
        json_schema_extra=_of("folder"),
        description="JPEG files whole, or at a half, a quarter or an eighth where that is twice data.size: faster, and "
        "other pixels",
    )
    augment: str | dict[str, Any] = Field(
        "none",
        json_schema_extra=_of("folder"),
        description="what chance does to images that are trained on: domainbed, or your own transform as "
        "package.module:function; with arguments {name: …, key: value}",
    )
    on_broken: Literal["error", "skip"] = Field(
        "error",
        json_schema_extra=_of("folder"),
        description="an image that cannot be decoded ends the run, or is left out and counted",
    )
    cache: Path | None = Field(
        None,
        json_schema_extra=_of("folder", **ELSEWHERE),
        description="folder for decoded images, made once; default: they are decoded whenever they are taken",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=256,
        json_schema_extra=_of("folder", **ELSEWHERE),
        description="threads that decode images, ahead of the step; default: one a core, 8 at most",
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
    target_held_out: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of each unseen domain that the oracle alone looks at, 0.2 in DomainBed; tables report the "
        "rest; 0: both look at all",
    )
    id_test: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of what each source holds out on which nothing is selected: tables report it beside the "
        "unseen domains (the field's in-distribution test)",
    )
    validation_domain: str | None = Field(
        None,
        json_schema_extra=_NATURAL,
        description="a domain that nobody trains on and no table reports: the rule validation_domain selects by it",
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
    partition: str | dict[str, Any] | None = Field(
        None,
        description="who holds what: {name: lambda, clients: 100, mixing: 0.1} from one domain a client (0) to all "
        "alike (1), {name: dirichlet, alpha: 0.5} label skew within a domain, {name: column, column: hospital} natural "
        "clients, or your own as package.module:function; default: clients_per_domain of each domain, all alike",
    )
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

    @field_validator("augment")
    @classmethod
    def _by_name(cls, augment: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(augment, dict) and not isinstance(augment.get("name"), str):
            raise ValueError("give a name, or a mapping with name and the arguments, such as {name: domainbed}")
        name = augment if isinstance(augment, str) else augment["name"]
        known = ("none", *plugins.known(plugins.TRANSFORMS))
        if name not in known and not is_own(name):
            own = "or name your own transform as package.module:function"
            raise ValueError(f"there is no augmentation {name!r}{nearest(name, known, own)}")
        return name if isinstance(augment, str) or len(augment) == 1 else augment

    @field_validator("partition", mode="before")
    @classmethod
    def _known_partition(cls, value: Any) -> Any:
        name = value.get("name") if isinstance(value, dict) else value
        if value is None or value == "domains":
            return None
        known = plugins.known(plugins.PARTITIONS)
        if not isinstance(name, str) or not (name in known or is_own(name)):
            raise ValueError(
                f"{shown(value)} is no partition{nearest(str(name), known)}; give {{name: …, option: …}} of "
                f"{', '.join(known)}, or your own as package.module:function"
            )
        return value

    @field_validator("class_names")
    @classmethod
    def _each_once(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and len(set(names)) < len(names):
            raise ValueError("a class is named twice; name each once")
        return names

    @model_validator(mode="after")
    def _known_and_read(self) -> "DataConfig":
        if _kind_of(self.name) is None:
            known = (*(name for name in DATA_SETS if name != "objects"), *plugins.known(plugins.DATA))
            own = "or name your own function as package.module:function"
            raise ValueError(f"there is no data set {self.name!r}{nearest(self.name, known, own)}")
        read = keys_of(self.name)
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if key not in read and value != field.get_default():
                own = ", ".join(one for one in read if one not in ("name", "digest"))
                raise ValueError(
                    f"data.{key} is {value!r}, which {self.name} does not read; remove it, or take "
                    f"{', '.join(_readers(key))} ({self.name} reads {own})"
                )
        return self

    @model_serializer(mode="wrap")
    def _own_keys(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        read = keys_of(self.name)
        return {key: value for key, value in write(self).items() if key in read}

    @property
    def partition_column(self) -> str | None:
        """The column of what is known of examples that clients are made by, if they are."""
        column = self.partition.get("column") if isinstance(self.partition, dict) else None
        return None if column is None else str(column)

    @property
    def targets(self) -> list[str]:
        """The unseen domains that are named."""
        return [] if self.target is None else [self.target, *self.more_targets]


def _kind_of(name: str) -> str | None:
    """A data set of fedha's, "own" for somebody's, or None for one that nobody knows."""
    if name in DATA_SETS:
        return name
    return "own" if is_own(plugins.location(plugins.DATA, name)) else None


def keys_of(data_set: str) -> tuple[str, ...]:
    """The keys that a data set's section may have, by its name."""
    return _keys_of_kind(_kind_of(data_set))


@cache
def _keys_of_kind(kind: str | None) -> tuple[str, ...]:
    readers = {key: _readers(key) for key in DataConfig.model_fields}
    return tuple(key for key, names in readers.items() if not names or kind in names)


def _readers(key: str) -> list[Any]:
    """The data sets that read a key; none where all do."""
    extra = DataConfig.model_fields[key].json_schema_extra
    found = extra.get("of", []) if isinstance(extra, dict) else []
    return found if isinstance(found, list) else []
