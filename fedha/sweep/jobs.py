"""The runs of a sweep, each with a name that its config gives it."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fedha.config import Config, is_elsewhere, located, parse
from fedha.errors import FedhaError
from fedha.runs.folders import folder_name
from fedha.sweep.space import Wanted

_NOT_COMPUTED = ("name", "checkpoint", "data.download")  # no number depends on them
_LATER = {  # keys that came after sweeps had been run: unsaid they leave a run's name as it was
    "data.id_test": 0.0,
    "evaluation.diagnose_every": None,
    "recipe.projected": None,
    "recipe.terms": None,
    "recipe.units": "raw",
    "recipe.weighting": None,
}
_SHORT = 40


class Task(NamedTuple):
    """What is to be done of a job.

    Attributes:
        job: Which.
        until: The round after which it is compared with others, and not trained on for now; None: to its end.
    """

    job: "Job"
    until: int | None = None


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: Its folder's, which ends with a digest of what it computes.
        label: Its row in tables.
        target: The unseen domain, "" where the data set has its own.
        seed: The trial.
        draw: The draw's number; None where nothing is drawn.
        values: What was varied, by key.
        config: The run; None where the schema refuses it.
        refused: Then why, else "".
        repeated: How many later draws gave the same values: they are this run.
    """

    name: str
    label: str
    target: str
    seed: int
    draw: int | None
    values: Mapping[str, Any]
    config: Config | None
    refused: str = ""
    repeated: int = 0

    @property
    def told(self) -> dict[str, Any]:
        """What a sweep's list says of it."""
        return {
            "name": self.name,
            "label": self.label,
            "target": self.target,
            "seed": self.seed,
            "draw": self.draw,
            "values": dict(self.values),
            **({"refused": self.refused} if self.refused else {}),
        }


def make_jobs(wanted: Iterator[Wanted] | Sequence[Wanted]) -> list[Job]:
    """The jobs of what is wanted; one whose config the schema refuses has the reason in its place.

    Draws that give the values of an earlier one are one job with it: chance did that, and a run is done once.

    Raises:
        FedhaError: The schema refuses all of them, or two would compute the same though nothing was drawn.
    """
    jobs = [_job(one) for one in wanted]
    if jobs and all(one.config is None for one in jobs):
        raise FedhaError(jobs[0].refused)
    seen: dict[str, Job] = {}
    for job in jobs:
        other = seen.setdefault(job.name, job)
        if other is job:
            continue
        if (other.label, other.values) == (job.label, job.values) and other.draw != job.draw:
            seen[job.name] = replace(other, repeated=other.repeated + 1)
        else:
            raise FedhaError(
                f"two runs of this sweep compute the same: {_told(other)} and {_told(job)}; give each value once"
            )
    return list(seen.values())


def _job(wanted: Wanted) -> Job:
    what = (wanted.label, wanted.target, wanted.seed, wanted.draw, wanted.values)
    try:
        config = _here(located(parse(dict(wanted.content), "")))
    except FedhaError as error:
        digest = _digest(wanted.content)
        return Job(_name(wanted, digest), *what, None, str(error))
    return Job(_name(wanted, digest_of(config)), *what, config)


def digest_of(config: Config) -> str:
    """A digest of all that a run's numbers depend on, of its config."""

    def computed(value: Any, prefix: str) -> Any:
        if isinstance(value, list):
            return [computed(one, prefix) for one in value]
        if not isinstance(value, Mapping):
            return value
        return {key: computed(one, f"{prefix}{key}.") for key, one in value.items() if counts(f"{prefix}{key}", one)}

    def counts(path: str, value: Any) -> bool:
        unsaid = path in _LATER and value == _LATER[path]
        return not unsaid and path not in _NOT_COMPUTED and not is_elsewhere(path)

    return _digest(computed(config.model_dump(mode="json"), ""))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _here(config: Config) -> Config:
    """The config with its clients in the worker's own process: the same bits, and no engine within an engine.

    Raises:
        FedhaError: Its engine is one that a sweep cannot have.
    """
    if config.engine.name == "flower":
        raise FedhaError("engine.name is flower, but a sweep shares its runs out itself; leave engine.name out")
    if len(config.seed) != 1 or len(config.recipe) != 1:
        raise FedhaError("a run of a sweep has one recipe and one seed")
    return config.model_copy(update={"engine": config.engine.model_copy(update={"name": "inline", "address": None})})


def _name(wanted: Wanted, digest: str) -> str:
    parts = [wanted.label[:_SHORT], wanted.target[:_SHORT], f"seed{wanted.seed}", digest[:12]]
    return "-".join(folder_name(one) for one in parts if one)


def _told(job: Job) -> str:
    values = ", ".join(f"{key}={written(value)}" for key, value in job.values.items())
    return f"{job.label}{f' ({values})' if values else ''}{f' on {job.target}' if job.target else ''}, seed {job.seed}"


def written(value: Any) -> str:
    """A value as a config has it, in one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {written(one)}' for key, one in value.items())}}}"
    return f"[{', '.join(map(written, value))}]" if isinstance(value, list | tuple) else str(value)
