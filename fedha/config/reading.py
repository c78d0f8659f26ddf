"""Reading and writing configs as files, texts and mappings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fedha import plugins
from fedha.config.data import DataConfig, keys_of
from fedha.config.experiment import Config
from fedha.config.model import ModelConfig, reads
from fedha.config.overrides import apply_override, check_overrides
from fedha.errors import FedhaError
from fedha.schema import explained
from fedha.yamlfile import read_yaml


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file.

    Args:
        path: A YAML file.
        overrides: Changes as ``key.key=value``; the value is YAML.

    Raises:
        FedhaError: The file is missing or is not YAML, or the content does not fit the schema.
    """
    content = read_content(path, overrides)
    if "sweep" in content:
        raise FedhaError(f"{path} describes a sweep, which is many runs; train them with: fedha sweep {path}")
    return parse(content, str(path))


def load_written(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config that a run wrote, of this version or an earlier one; arguments and errors as in `load`.

    What is written is whole, so what is not there could not be said yet: it is as it was then, not today's default.
    """
    return _parsed(_as_it_was(_read(path)), path, overrides)


def located(config: Config) -> Config:
    """The config with its paths absolute, and the home that a ``~`` means, so that it holds from any folder.

    Raises:
        FedhaError: A ``~name`` is nobody's, or a cache lies within the data's folder.
    """
    paths = {key: getattr(config.data, key) for key in ("root", "manifest", "cache")}
    if config.data.root and config.data.manifest and (config.data.root / config.data.manifest).is_file():
        del paths["manifest"]  # it is found there
    whole = {key: expanded(path, f"data.{key}").absolute() for key, path in paths.items() if path is not None}
    changed: dict[str, Any] = {"data": config.data.model_copy(update=whole)} if whole else {}
    if model := _located_model(config.model):
        changed["model"] = config.model.model_copy(update=model)
    found = config.model_copy(update=changed) if changed else config
    for key, cache in (("data.cache", found.data.cache), ("model.features.cache", found.model.features.cache)):
        if cache is not None and found.data.root is not None and cache.is_relative_to(found.data.root):
            raise FedhaError(
                f"{key} is {cache}, within the data's own folder {found.data.root}, which holds domains alone; let it "
                "name another one"
            )
    return found


def _located_model(model: ModelConfig) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    weights = model.options.get("weights")
    if model.name in plugins.BUILT_IN[plugins.MODELS] and weights not in (None, "pretrained", "none"):
        file = str(expanded(Path(str(weights)), "model.weights").absolute())
        changed["options"] = {**model.options, "weights": file}
    if model.features.cache is not None:
        cache = expanded(model.features.cache, "model.features.cache").absolute()
        changed["features"] = model.features.model_copy(update={"cache": cache})
    if model.start is not None:
        run = expanded(model.start.run, "model.start").absolute()
        changed["start"] = model.start.model_copy(update={"run": run})
    return changed


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


def without_others(content: Mapping[str, Any]) -> dict[str, Any]:
    """A config's content as it is written today: an earlier version wrote all data sets' and networks' keys."""
    data, model, kept = content.get("data"), content.get("model"), dict(content)
    if isinstance(data, Mapping):
        unread = set(DataConfig.model_fields).difference(keys_of(str(data.get("name"))))
        kept["data"] = {key: value for key, value in data.items() if key not in unread}
    if isinstance(model, Mapping):
        usual = {key: _plain(field.get_default()) for key, field in ModelConfig.model_fields.items()}
        name = str(model.get("name"))
        kept["model"] = {
            key: value for key, value in model.items() if reads(name, key) or value != usual.get(key, value)
        }
    return kept


def _plain(default: Any) -> Any:
    """A default as a config file has it."""
    return default.model_dump(mode="json") if isinstance(default, BaseModel) else default


def read_content(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a config file says, with changes, before any schema looks at it; arguments and errors as in `load`."""
    content = _read(path)
    check_overrides(overrides)
    for override in overrides:
        apply_override(content, override)
    return content


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
