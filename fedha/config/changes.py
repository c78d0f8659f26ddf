"""What of a config may change in a run that has begun."""

import json
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from fedha.config.experiment import Config
from fedha.schema import types_in


def may_change(key: str) -> bool:
    """Whether a key, with dots, may be changed in a run that has begun: it or its section says so in the schema."""
    return _says(key, "may_change")


def is_elsewhere(key: str) -> bool:
    """Whether a key, with dots, says where a run goes on and how often it is saved, and not what is computed."""
    return _says(key, "elsewhere")


@lru_cache(maxsize=4096)  # a sweep asks for every key of every run
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
