"""The one schema of an experiment: what a YAML file may say, with its defaults; a module a section."""

from fedha.config.changes import is_elsewhere, lasting, may_change
from fedha.config.data import DataConfig
from fedha.config.experiment import POOLED, Config
from fedha.config.model import FeaturesConfig, ModelConfig
from fedha.config.privacy import LARGEST, SMALLEST, PrivacyConfig
from fedha.config.reading import (
    expanded,
    from_json,
    load,
    load_written,
    located,
    parse,
    read_content,
    to_json,
    to_yaml,
    without_others,
)
from fedha.config.recipe import RecipeConfig
from fedha.config.running import CheckpointConfig, EngineConfig, EvaluationConfig, FederationConfig
from fedha.config.training import LocalConfig, TrainingConfig

__all__ = [
    "LARGEST",
    "POOLED",
    "SMALLEST",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EngineConfig",
    "EvaluationConfig",
    "FeaturesConfig",
    "FederationConfig",
    "LocalConfig",
    "ModelConfig",
    "PrivacyConfig",
    "RecipeConfig",
    "TrainingConfig",
    "expanded",
    "from_json",
    "is_elsewhere",
    "lasting",
    "load",
    "load_written",
    "located",
    "may_change",
    "parse",
    "read_content",
    "to_json",
    "to_yaml",
    "without_others",
]
