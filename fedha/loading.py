"""A finished run's network, ready to predict."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from fedha.arguments import check_argument, check_number
from fedha.config import Config, load_written
from fedha.data.domain import DomainSet
from fedha.data.fingerprint import fingerprint
from fedha.errors import FedhaError
from fedha.inputs import each, nested
from fedha.models import SplitModel, build
from fedha.models.state import CONSTANT, TIED, TRAINED, kinds_of, named_state
from fedha.named import invoke
from fedha.runs import runfolder
from fedha.runs.checkpoint import read_saved
from fedha.runs.kept import model_of


@dataclass(frozen=True)
class Expectation:
    """What a run's network was trained on.

    Attributes:
        input_shape: Shape of one input, without the batch axis; of several, a tuple of shapes or shapes by name.
        classes: C; a network with one logit speaks for class 1 of two.
        data: What the data were and what was done to them, such as how they were scaled.
        class_names: Of the classes, in the order of their labels; (): they have none.
        statistics: By which the rows of a table were made inputs, by column.
    """

    input_shape: Any
    classes: int
    data: str
    class_names: tuple[str, ...] = ()
    statistics: Mapping[str, Any] = field(default_factory=dict)


def load(
    run: str | Path,
    *,
    model: SplitModel | Callable[..., SplitModel] | None = None,
    rule: str = "final",
    round: int | None = None,
) -> SplitModel:
    """The network of a finished run with its weights, in evaluation mode.

    Args:
        run: The run's folder.
        model: The network, or the function that makes it, where the run was given one that has no import name.
        rule: Whose round's weights: final, training_domain_validation, leave_one_domain_out or oracle. Those of other
            rounds than the last are there where ``checkpoint.keep`` says so.
        round: The weights of this round, whatever a rule says.

    Returns:
        The network; its attribute ``expects`` (`Expectation`) says what it was trained on.

    Raises:
        FedhaError: The folder holds no finished run, its network cannot be made again here, or the weights are of
            another one.
    """
    check_argument("fedha.load", "run", run, (str, Path), "the folder of a run")
    if round is not None:
        check_number("fedha.load", "round", round, 1)
    folder = Path(run).expanduser()
    if not runfolder.holds_run(folder):
        raise FedhaError(f"there is no run in {folder}; name the folder of one, with its config.yaml")
    config, results = load_written(folder / runfolder.CONFIG), runfolder.read_results(folder)
    name, wanted = model_of(folder, results, rule, round), _expected(config, results)
    if model is None:
        network = build(config.network, wanted.input_shape, wanted.classes, config.seed[0], bare=True)
    else:
        network = _given(model, wanted)
    _fill(network, folder, name)
    network.expects = wanted  # type: ignore[assignment]  # an attribute that is no part of the network
    network.eval()
    return network


def _expected(config: Config, results: Mapping[str, Any]) -> Expectation:
    """What results say, or the data themselves, for version 0.1.0 did not write it."""
    names = tuple(config.data.class_names or ())
    if "expects" in results:
        told = results["expects"]
        shape, classes, names = _shape(told["input_shape"]), told["classes"], tuple(told.get("class_names") or names)
        return Expectation(shape, classes, results["data"], names, told.get("statistics") or {})
    from fedha.flower.serve import load_domains  # Flower: slow to import, and only needed here

    domains = load_domains(config)
    return Expectation(domains.input_shape, domains.classes, results["data"], domains.class_names or names)


def _shape(written: Any) -> Any:
    """A shape as JSON holds it: lists in the place of tuples."""
    if isinstance(written, list) and not nested(written):
        return tuple(written)
    return each(tuple, tuple(written) if isinstance(written, list) else written)


def _given(model: SplitModel | Callable[..., SplitModel], wanted: Expectation) -> SplitModel:
    made = model
    if not isinstance(model, nn.Module):
        offered = {"input_shape": wanted.input_shape, "classes": wanted.classes}
        made = invoke("model", "the function", model, {}, offered)
    if not isinstance(made, SplitModel):
        raise FedhaError(f"model gives a {type(made).__name__}; give a SplitModel, or the function that makes it")
    return deepcopy(made)


def _fill(network: SplitModel, folder: Path, name: str) -> None:
    saved, own = runfolder.read_model(folder, name), named_state(network)
    path, kinds = folder / name, kinds_of(network)
    missing, foreign = sorted(own.keys() - saved.keys()), sorted(saved.keys() - own.keys())
    if foreign or any(kinds[name] not in CONSTANT and not kinds[name].startswith(TIED) for name in missing):
        raise FedhaError(
            f"the weights in {path} are of another network: they lack {', '.join(missing) or 'none'} and have "
            f"{', '.join(foreign) or 'none'} beside them"
        )
    if missing and len(saved) != sum(kind == TRAINED for kind in kinds.values()):
        raise FedhaError(f"{path} lacks {', '.join(missing)}; resume the run, or repeat it")
    for name, value in saved.items():
        if own[name].shape != value.shape:
            raise FedhaError(
                f"{name} has shape {tuple(value.shape)} in {path} but {tuple(own[name].shape)} in the network; hand "
                "over the network that the run was trained with"
            )
    network.load_state_dict(saved, strict=not missing)  # an earlier version left out what was never trained


def own_domains(folder: Path, config: Config) -> DomainSet:
    """The data of a run, looked at for whether they are those that it was trained with.

    Args:
        folder: The run's.
        config: As it is written there.

    Raises:
        FedhaError: They cannot be loaded, or are others.
    """
    from fedha.flower.serve import load_domains  # and with it Flower, which takes a while

    domains, saved = load_domains(config), read_saved(folder)
    if saved is not None and saved.data is not None and saved.data != fingerprint(domains):
        raise FedhaError(
            f"the data are not those that the run in {folder} was trained with: examples, labels, their order or who "
            "is held out differ; put them back (data.root?)"
        )
    return domains
