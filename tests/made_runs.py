"""Run folders made by hand, for tests of what reads them."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from fedha import config as configs
from fedha.config import Config
from fedha.flower.serve import load_domains
from fedha.models import build
from fedha.runs import own_files, runfolder
from fedha.runs.files import STATE

# for real runs
FAST = (
    "training.rounds=4",
    "engine.name=inline",
    "evaluation.every=2",
    "evaluation.leave_one_domain_out=false",
    "model.hidden=[4]",
)


def changed(overrides: Iterable[str], *changes: str) -> tuple[str, ...]:
    """Overrides with others of the same keys in their places: given twice, a key is refused."""
    return tuple({one.partition("=")[0]: one for one in (*overrides, *changes)}.values())


VERSIONS = {"fedha": "0.1.0", "python": "3.11", "torch": "2.13.0", "flwr": "1.41.0", "ray": "2.55.1", "numpy": "2.4.6"}


def part(accuracy: float | None) -> dict[str, Any]:
    """What an evaluation says of one domain; None: it has no examples."""
    return {"examples": 0} if accuracy is None else {"accuracy": accuracy, "risk": 0.5, "examples": 100}


def results(recipe: str = "hgp", seed: int = 0, accuracy: float = 0.6, **changes: Any) -> dict[str, Any]:
    """A results.json: two sources at 80 % and 70 % held out, 90 % on their training parts, one target."""
    found = {
        "recipe": recipe,
        "seed": seed,
        "rounds": 20,
        "seconds": 1.5,
        "target": {"faraway": part(accuracy)},
        "sources": {"near": part(0.8), "nearer": part(0.7)},
        "train": {"near": part(0.9), "nearer": part(0.9)},
        "selection": {
            "final": {"round": 20, "target_accuracy": accuracy},
            "training_domain_validation": {"round": 15, "target_accuracy": accuracy - 0.1},
            "oracle": {"round": 5, "target_accuracy": accuracy + 0.1},
        },
        "versions": VERSIONS,
        "name": "made",
        "data": "made by hand",
    }
    return {**found, **changes}


def record(round: int, *, penalty: float = 1e-2, every: int = 5, wave: float = 0.0) -> dict[str, Any]:
    """A line of metrics.jsonl; every fifth round is evaluated."""
    share = 1 - math.exp(-round / 6)
    found: dict[str, Any] = {
        "round": round,
        "seconds": 0.01,
        "loss": 0.7 - 0.4 * share + wave,
        "risk": {"near": 0.65 - 0.4 * share, "nearer": 0.66 - 0.4 * share},
        "accuracy": {"near": 0.5 + 0.4 * share, "nearer": 0.5 + 0.35 * share},
        "penalty": {"gradient": penalty * math.exp(-round / 9), "gradient_hessian_product": penalty / 50},
        "weight": 1.0,
        "bytes_down": 40_000,
        "bytes_up": 20_000,
    }
    if round % every == 0:
        found["held_out"] = {"near": part(0.5 + 0.3 * share + wave), "nearer": part(0.5 + 0.2 * share + wave)}
        found["target"] = {"faraway": part(0.5 + 0.1 * share - wave)}
    return found


def config(recipe: Any = "hgp", seed: int = 0, **changes: Any) -> Config:
    """A single run of 20 rounds, named "made"."""
    content = {"name": "made", "recipe": recipe, "seed": seed, "training": {"rounds": 20}}
    return configs.parse({**content, **changes})


def write_run(folder: Path, recipe: str = "hgp", seed: int = 0, *, rounds: int = 20, **changes: Any) -> Path:
    """A run's folder with its files; finished where `rounds` is 20."""
    folder.mkdir(parents=True)
    settings = changes.pop("settings", {})
    made = config(**{"recipe": recipe, "seed": seed, **settings})
    (folder / runfolder.CONFIG).write_text(configs.to_yaml(made))
    lines = [json.dumps(record(number, wave=0.02 * seed)) for number in range(1, rounds + 1)]
    (folder / runfolder.METRICS).write_text("".join(f"{line}\n" for line in lines))
    if rounds == 20:
        (folder / runfolder.RESULTS).write_text(json.dumps(results(recipe, seed, **changes)))
    return folder


def as_in_0_1_0(folder: Path) -> Path:
    """Make a run's folder what version 0.1.0 would have left: no list of files, nothing of the config in the state."""
    content = yaml.safe_load((folder / runfolder.CONFIG).read_text())
    content["checkpoint"].pop("minutes", None)
    (folder / runfolder.CONFIG).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    (folder / own_files.MARKER).unlink()
    if (path := folder / runfolder.RESULTS).exists():
        found = json.loads(path.read_text())
        found.pop("expects", None)
        path.write_text(json.dumps(found))
    if (state := folder / STATE).exists():
        with safe_open(state, framework="pt") as file:
            numbers = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        domains = load_domains(configs.parse(content))
        model = build(configs.parse(content).model, domains.input_shape, domains.classes, 0)
        order = [name for name, _ in model.named_parameters()]
        prefix = "rule/groupdro/"
        kept = [name for name in tensors if name.startswith(prefix)]
        weights = {name.removeprefix(prefix): float(tensors.pop(name)) for name in kept}
        numbers = {"round": numbers["round"], "weights": weights, "clients": numbers["clients"]}
        renamed = {_named_before(name, order): value for name, value in tensors.items()}
        save_file(renamed, state, {"state": json.dumps(numbers)})
    return folder


def _named_before(name: str, order: list[str]) -> str:
    """What a checkpoint called a tensor before server rules had names."""
    if name.startswith("rule/reference_average/"):
        return name.replace("rule/reference_average/", "averages/")
    if name.startswith("rule/"):
        _, _, slot, parameter = name.split("/")
        return f"optimizer/{order.index(parameter)}/{slot}"
    return name.replace("/averages/", "/") if name.startswith("clients/") else name
