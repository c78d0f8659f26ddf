"""The cells of a privacy study: every recipe with every noise, aggregation and seed, as configs of single runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedha import config as configs
from fedha.config import Config
from fedha.errors import FedhaError
from fedha.runs.folders import folder_name

AGGREGATIONS = ("plain", "secure")


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        recipe: Its name.
        noise: The noise multiplier of example-level privacy; None for none.
        aggregation: One of `AGGREGATIONS`.
        seed: The run's.
        config: The run; None where the config does not allow this combination.
        refused: Then why, else "".
    """

    recipe: str
    noise: float | None
    aggregation: str
    seed: int
    config: Config | None
    refused: str = ""

    @property
    def name(self) -> str:
        """What the run's folder is called."""
        return f"{folder_name(self.recipe)}-noise-{noise_text(self.noise)}-{self.aggregation}-seed{self.seed}"


def cells_of(config: Config, noises: Sequence[float | None], aggregations: Sequence[str]) -> list[Cell]:
    """All cells, recipes first; those that the config cannot be are there with the reason.

    Folds of leave-one-domain-out are left out: they would be further runs over the same examples.

    Args:
        config: Recipes and seeds, one or several.
        noises: Noise multipliers; None for none.
        aggregations: Of `AGGREGATIONS`.

    Raises:
        FedhaError: Two runs would have the same name.
    """
    found = [
        _cell(run, noise, aggregation)
        for recipe in config.recipe
        for noise in noises
        for aggregation in aggregations
        for run in config.model_copy(update={"recipe": [recipe]}).runs()
    ]
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise FedhaError(
            f"two runs of this study would both be called {twice}; give recipes, seeds and noises once each"
        )
    return found


def read_noises(text: str) -> tuple[float | None, ...]:
    """Noise multipliers as people write them: ``none,0.5,2``.

    Raises:
        FedhaError: One is no positive number and not ``none``.
    """
    found: list[float | None] = []
    for part in (one.strip() for one in text.split(",")):
        try:
            noise = None if part == "none" else float(part)
        except ValueError:
            noise = 0.0
        if noise is not None and not 0 < noise < float("inf"):
            raise FedhaError(
                f"noise {text!r} cannot be read at {part!r}; give none or noise multipliers, as in none,1,4"
            )
        found.append(noise)
    return tuple(dict.fromkeys(found))


def read_aggregations(text: str) -> tuple[str, ...]:
    """Ways of aggregation as people write them: ``plain,secure``.

    Raises:
        FedhaError: One is not among `AGGREGATIONS`.
    """
    found = tuple(dict.fromkeys(one.strip() for one in text.split(",")))
    if wrong := [one for one in found if one not in AGGREGATIONS]:
        raise FedhaError(f"there is no aggregation {wrong[0]!r}; they are {' and '.join(AGGREGATIONS)}")
    return found


def noise_text(noise: float | None) -> str:
    """``none``, or the number."""
    return "none" if noise is None else f"{noise:g}"


def _cell(run: Config, noise: float | None, aggregation: str) -> Cell:
    content: dict[str, Any] = run.model_dump(mode="json")
    content["evaluation"]["leave_one_domain_out"] = False
    protected = {"protect": "nothing"} if noise is None else {"protect": "examples", "noise_multiplier": noise}
    if noise is None:
        content["privacy"].pop("noise_multiplier", None)
    content["privacy"] |= {**protected, "secure_aggregation": aggregation == "secure"}
    what = (run.recipe[0].name, noise, aggregation, run.seed[0])
    try:
        return Cell(*what, configs.parse(content))
    except FedhaError as error:
        return Cell(*what, None, str(error).removeprefix("the config: "))
