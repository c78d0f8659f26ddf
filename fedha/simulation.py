"""One run from objects: domains, a network, a recipe. What `fedha run` does for a config, in program or notebook."""

import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn

from fedha import temporary
from fedha.arguments import check_argument, check_number
from fedha.config import Config, EngineConfig, RecipeConfig, TrainingConfig, parse
from fedha.config.recipe import as_settings
from fedha.data.domain import Domain
from fedha.data.domain_set import digest, domain_set
from fedha.errors import FedhaError
from fedha.loading import load
from fedha.metrics.table import handed_over
from fedha.models import SplitModel
from fedha.models.state import TRAINED, kinds_of, named_state
from fedha.named import name_of
from fedha.objects import NAME, code_digest, digest_of, put_object
from fedha.recipes import Recipe
from fedha.report.comparison import read_runs, variants
from fedha.report.formats import render
from fedha.report.tables import accuracy_table
from fedha.rules.rule import Rule
from fedha.rules.table import named_rule
from fedha.run import execute
from fedha.runs import runfolder
from fedha.runs.listener import Listener, Silent
from fedha.runs.wording import flat

_PROCESSES = {"ray": "workers", "flower": "processes"}

Network = SplitModel | Callable[..., SplitModel]


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        folder: Where it was written.
        results: The content of results.json.
        records: A mapping a round, as in metrics.jsonl.
    """

    folder: Path
    results: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    _kept: Any = field(default=None, repr=False)  # the temporary folder, which goes when the result goes

    @property
    def history(self) -> list[dict[str, Any]]:
        """A flat row a round, as ``pandas.DataFrame`` takes it: ``risk/photo``, ``target/sketch/accuracy``, …"""
        return [flat(record) for record in self.records]

    @property
    def model(self) -> SplitModel:
        """The network with the last round's weights; see `fedha.load`."""
        return load(self.folder)

    def accuracy(self, domain: str, rule: str = "final") -> float:
        """Accuracy on a domain, 0 to 1: of a source on what it holds out, of a target on all of it.

        Args:
            domain: Its name.
            rule: Which round is looked at: final, training_domain_validation, leave_one_domain_out or oracle.

        Raises:
            FedhaError: No such domain, or the run has no numbers for the rule.
        """
        number, found = self._at(domain, rule)
        if "accuracy" not in found:
            raise FedhaError(f"there is no accuracy of {domain!r} in round {number}: it has no examples")
        return float(found["accuracy"])

    def metric(self, name: str, domain: str, rule: str = "final") -> float | None:
        """A metric of ``evaluation.metrics`` on a domain; None where it has no value there.

        Args:
            name: The metric's; of a function that was handed over, that function's.
            domain: As for `accuracy`.
            rule: Likewise.

        Raises:
            FedhaError: As for `accuracy`, or the run has no such metric.
        """
        number, found = self._at(domain, rule)
        same = [key for key in found if name in (key, key.rpartition(":")[2])]
        if not same:
            raise FedhaError(f"there is no {name!r} of {domain!r} in round {number}, only {', '.join(found)}")
        return None if found[same[0]] is None else float(found[same[0]])

    def _at(self, domain: str, rule: str) -> tuple[int, Mapping[str, Any]]:
        """The round that a rule takes, and what is known of a domain there."""
        chosen = {"final": {"round": self.results["rounds"]}, **self.results["selection"]}
        if rule not in chosen:
            raise FedhaError(f"this run has no rule {rule!r}, only {', '.join(chosen)}")
        number = int(chosen[rule]["round"])
        record = next(one for one in self.records if one["round"] == number)
        known = {**(record.get("held_out") or {}), **(record.get("target") or {})}
        if domain not in known:
            raise FedhaError(f"there is no accuracy of {domain!r} in round {number}, only of {', '.join(known)}")
        return number, known[domain]

    def __str__(self) -> str:
        return render(self._table(), "text")

    def _repr_markdown_(self) -> str:
        return render(self._table(), "markdown")

    def _table(self) -> Any:
        runs, _ = read_runs([self.folder])
        return accuracy_table([run.results for run in runs], variants([run.config for run in runs]))


def simulate(
    domains: Iterable[Domain],
    model: Network,
    recipe: str | Mapping[str, Any] | RecipeConfig | Recipe = "hgp",
    *,
    target: str | Sequence[str] | None = None,
    training: TrainingConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
    engine: str | Mapping[str, Any] | EngineConfig = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    classes: int | None = None,
    partition: str | Mapping[str, Any] | None = None,
    listener: Listener | None = None,
    **sections: Any,
) -> Result:
    """Train one model on several domains, each a client of its own, and evaluate it.

    Args:
        domains: With names of their own; a target's parts are evaluated together and never trained on.
        model: A network, or a function that makes one: it may take ``input_shape`` and ``classes``, and what it draws
            is drawn from the run's seed.
        recipe: A row's name, what a config says under ``recipe``, or a `fedha.recipes.Recipe`.
        target: The unseen domains among them, by name; the first is the one that rules and tables speak of. None:
            there are the sources' numbers alone.
        training: What a config says under ``training``; its ``optimizer`` may be a `fedha.rules.Rule`, or a function
            that makes one.
        seed: The run's seed.
        engine: A name, or what a config says under ``engine``. A network, rule or function without an import name (a
            lambda, a notebook's) can be used in this process alone: auto takes inline then, ray and flower refuse.
        out: The run's folder; None: a temporary one, which goes with the result.
        resume: Continue what the folder holds, with the same objects.
        classes: C; None: one more than the highest label.
        partition: What a config says under ``data.partition``; None: each domain is a client.
        listener: Told of every round.
        **sections: Other sections of the config: evaluation (whose ``metrics`` may be functions, or `fedha.Metric`),
            privacy, checkpoint, name.

    Returns:
        The finished run.

    Raises:
        FedhaError: What is given does not fit; said before the first round where it can be.
    """
    _check_arguments(domains, target, engine, listener, out, classes, sections)
    _check_one_run(recipe, seed)
    some = list(domains)
    if not some:
        raise FedhaError("fedha.simulate was given no domain; give a list of fedha.data.Domain, one a client")
    targets = [target] if isinstance(target, str) else list(target or [])
    given = domain_set(some, targets, classes, "domains of a program")
    known = digest(given)
    put_object(known, given)
    config = parse(
        {
            "name": "simulation",
            "recipe": as_settings(recipe) if isinstance(recipe, Recipe) else _plain(recipe),
            "training": _known_training(training or {}),
            "seed": seed,
            "engine": {"name": engine} if isinstance(engine, str) else _plain(engine),
            **{name: _plain(value) for name, value in _with_names(sections).items()},
            "data": {"name": NAME, "digest": known} | ({} if partition is None else {"partition": _plain(partition)}),
            "model": _known_network(model),
        },
        "fedha.simulate",
    )
    config = _placed(config)
    kept = None if out is not None else tempfile.TemporaryDirectory(prefix="fedha-", dir=temporary.wanted())
    folder = Path(out).expanduser() if kept is None else Path(kept.name) / "run"  # type: ignore[arg-type]
    results = execute(config, folder, listener or Silent(), resume=resume and runfolder.holds_run(folder))
    return Result(folder, results, runfolder.read_metrics(folder), kept)


def _check_arguments(
    domains: object,
    target: object,
    engine: object,
    listener: object,
    out: object,
    classes: object,
    sections: Mapping[str, Any],
) -> None:
    whose, nothing = "fedha.simulate", type(None)
    if isinstance(domains, Domain | str | Mapping):
        check_argument(whose, "domains", type(domains), (), "a list of fedha.data.Domain, one a client and target")
    check_argument(whose, "domains", domains, Iterable, "a list of fedha.data.Domain, one a client and target")
    check_argument(whose, "target", target, (str, Sequence, nothing), "a domain's name, a list of them, or None")
    check_argument(
        whose, "engine", engine, (str, Mapping, EngineConfig), "auto, inline, ray or flower, or a dict of settings"
    )
    check_argument(whose, "listener", listener, (Listener, nothing), "a fedha.runs.listener.Listener, or None")
    check_argument(whose, "out", out, (str, Path, nothing), "the folder to write, or None for a temporary one")
    if out is not None and not str(out):
        raise FedhaError(f"{whose} was given out={out!r}; give the folder to write, or None for a temporary one")
    if isinstance(target, list | tuple) and (twice := [one for one in target if target.count(one) > 1]):
        raise FedhaError(f"{whose} was given the target {twice[0]!r} twice; name each once")
    if classes is not None:
        check_number(whose, "classes", classes, 2)
    for name in {"data", "model"} & sections.keys():
        raise FedhaError(f"{whose} was given a section {name}, which its first arguments stand for; leave it out")


def _check_one_run(recipe: object, seed: object) -> None:
    whose, kinds = "fedha.simulate", (str, Mapping, RecipeConfig, Recipe)
    what = "a row's name (`fedha recipes`), a dict of settings, or a fedha.recipes.Recipe; it trains one run"
    check_argument(whose, "recipe", recipe, kinds, what)
    check_number(whose, "seed", seed, 0)


def _with_names(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections with the names of the metrics that are handed over as functions."""
    evaluation = _plain(sections.get("evaluation"))
    if not isinstance(evaluation, Mapping) or not isinstance(evaluation.get("metrics"), list | tuple):
        return dict(sections)
    named = [handed_over(one) for one in evaluation["metrics"]]
    chosen = _by_its_name(evaluation.get("select_by"), named)
    return {**sections, "evaluation": {**evaluation, "metrics": named, **({"select_by": chosen} if chosen else {})}}


def _by_its_name(choice: Any, named: Sequence[str]) -> Any:
    """A choice of a metric, which of a function that is handed over may say the function's name."""
    if isinstance(choice, Mapping):
        return {**choice, "metric": _by_its_name(choice.get("metric"), named)}
    return next((one for one in named if one.rpartition(":")[2] == choice), choice)


def _known_network(model: Network) -> dict[str, Any]:
    if isinstance(model, nn.Module):
        if not isinstance(model, SplitModel):
            raise FedhaError(
                f"model is a {type(model).__name__}; give fedha.models.SplitModel(featurizer, head), "
                "SplitModel.of(network, head='fc'), or a function that makes one"
            )
        own, digest = deepcopy(model), digest_of(_told_apart(model))
        put_object(digest, lambda: deepcopy(own))
        return {"name": NAME, "options": {"digest": digest}}
    if not callable(model):
        raise FedhaError(f"model is {model!r}; give a SplitModel or a function that makes one")
    if (name := name_of(model)) is not None:
        return {"name": name, "options": {}}
    digest = f"function {getattr(model, '__qualname__', type(model).__name__)}"
    put_object(digest, model)
    return {"name": NAME, "options": {"digest": digest}}


def _told_apart(model: SplitModel) -> Iterable[tuple[str, Tensor]]:
    """What makes a network another: its state, and what becomes of its parts."""
    kinds = kinds_of(model)
    for name, value in named_state(model).items():
        yield name if kinds[name] == TRAINED else f"{name} {kinds[name]}", value


def _known_training(training: TrainingConfig | Mapping[str, Any]) -> Any:
    plain = _plain(training)
    given = plain.get("optimizer") if isinstance(plain, Mapping) else None
    name, more = (given.get("name"), dict(given)) if isinstance(given, Mapping) else (given, {})
    if name is None or isinstance(name, str):
        return plain
    if not isinstance(name, Rule) and not callable(name):
        raise FedhaError(f"training's optimizer is {name!r}; give a name, a fedha.rules.Rule, or what makes one")
    if (known := _import_name(name)) is not None:
        return {**plain, "optimizer": {**more, "name": known}}
    digest = code_digest(name)
    put_object(digest, name)
    return {**plain, "optimizer": {**more, "name": NAME, "digest": digest}}


def _import_name(value: Rule | Callable[..., Any]) -> str | None:
    """The name under which another process finds a rule or function; None where there is none."""
    if not isinstance(value, Rule):
        return name_of(value)
    for place, module in list(sys.modules.items()):
        for name, found in list(getattr(module, "__dict__", {}).items()):
            if found is value and place not in ("__main__", "__mp_main__"):
                return f"{place}:{name}"
    return None


def _placed(config: Config) -> Config:
    """The config with an engine that can have the objects."""
    rule, _ = named_rule(config.training.optimizer or "")
    metrics = [name.partition(":")[0] for name in config.evaluation.metrics]
    wanted, anonymous = config.engine.name, NAME in (config.model.name, rule, *metrics)
    what = "rule" if rule == NAME else "metric" if NAME in metrics else "network or function"
    if anonymous and wanted in _PROCESSES:
        raise FedhaError(
            f"engine is {wanted!r}, whose {_PROCESSES[wanted]} cannot import this {what}; define it in a module of its "
            "own (not in the program that is started, and no lambda), or take engine='inline'"
        )
    if not anonymous or wanted == "inline":
        return config
    return config.model_copy(update={"engine": config.engine.model_copy(update={"name": "inline"})})


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value
