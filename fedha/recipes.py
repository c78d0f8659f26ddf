"""The table of recipes: every algorithm is a row, {statistic: weight} with a target and a distance."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from fedha import plugins
from fedha.errors import FedhaError
from fedha.registry import reference_of, statistic
from fedha.table import FEATURE_SIZE

Target = Literal["mean", "zero", "others"]
Distance = Literal["squared", "mean_squared", "inner", "value"]
Units = Literal["raw", "features"]


@dataclass(frozen=True)
class Term:
    """One term of a penalty.

    Attributes:
        statistic: As in `fedha.registry.statistic`.
        weight: Multiplies the term; the recipe's own weight multiplies it again.
        target: What the statistic is compared with: the clients' mean, zero, or the mean of the other clients.
        distance: Squared (a sum over entries), mean squared, the negative inner product, or the value itself.
        client_average: Decay of the client's own moving average of the statistic (Fishr); 0: none.
        reference_average: Decay of the server's moving average of the reference (FedIIR); 0: none.
        per_probe: Whether the weight is divided by the number of probes (expectations over signs).
        units: What the distance is measured in: as it is, or in what it would be for features of mean square one.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # where a config says one

    statistic: str
    weight: float = 1.0
    target: Target = "mean"
    distance: Distance = "squared"
    client_average: float = 0.0
    reference_average: float = 0.0
    per_probe: bool = False
    units: Units = "raw"

    @property
    def degree(self) -> float:
        """With what power of the features' mean square its distance grows; 0 where it is taken as it is."""
        power = statistic(self.statistic).degree if self.units == "features" else 0
        return power / 2 if self.distance == "value" else power


@dataclass(frozen=True)
class Recipe:
    """One row.

    Attributes:
        name: What configs and tables call it.
        terms: The penalty's terms; none for ERM.
        source: Where it was published.
        weighting: How the server weighs the clients' updates: by its averaging rule, or by risk (group DRO).
        weight: Multiplies every term after the warm-up.
        warmup_rounds: Rounds at `warmup_weight`.
        warmup_weight: Multiplies every term during the warm-up.
        rescale: Divide the whole loss by the weight while it is over 1.
        reset_optimizer: Start the server's optimiser afresh when the warm-up ends, as DomainBed does: Adam would divide
            the new, rescaled gradients by the old ones' size for hundreds of rounds.
        probes: Sign vectors of the Hutchinson rows.
        step_size: Step of the domain weights, where they move by risk.
        projected: Whether those move along the risks and are put back to the nearest weights (AFL), not multiplied by
            their exponentials (group DRO).
        mixup_alpha: Examples are mixed with others of their batch, in parts drawn from Beta(alpha, alpha); 0: not.
        sam_radius: Gradients are taken so far up a client's own loss, not at the model; 0: at it.
        pull: Why identical clients still feel a pull, or "" where they feel none.
    """

    name: str
    terms: tuple[Term, ...] = ()
    source: str = ""
    weighting: Literal["average", "risk"] = "average"
    weight: float = 1.0
    warmup_rounds: int = 0
    warmup_weight: float = 1.0
    rescale: bool = False
    reset_optimizer: bool = False
    probes: int = 100
    step_size: float = 0.01
    pull: str = ""
    projected: bool = False
    mixup_alpha: float = 0.0
    sam_radius: float = 0.0

    def scheduled_weight(self, round: int) -> float:
        """The weight in a round, counted from 1."""
        return self.warmup_weight if round <= self.warmup_rounds else self.weight

    @property
    def weak_rounds(self) -> int:
        """How many rounds at the beginning have another weight than the recipe's own: the warm-up, if it is one."""
        aligns = any(term.weight > 0 for term in self.terms)
        return self.warmup_rounds if aligns and self.warmup_weight != self.weight else 0

    def measurements(self) -> tuple[tuple[str, ...], ...]:
        """What is measured for the references: one tuple of statistics an exchange, in order."""
        wanted = {t.statistic: statistic(t.statistic) for t in self.terms if t.target != "zero" and t.weight > 0}
        first = [reference_of(name) for name, row in wanted.items() if not row.needs]
        first += [needed for row in wanted.values() for needed in row.needs]
        first += [FEATURE_SIZE.name] * self.in_units
        second = [reference_of(name) for name, row in wanted.items() if row.needs]
        return tuple(tuple(dict.fromkeys(names)) for names in (first, second) if names)

    @property
    def in_units(self) -> bool:
        """Whether the features' mean square is measured, as what distances are measured in."""
        return any(term.weight > 0 and term.degree for term in self.terms)

    @property
    def representation(self) -> Literal["", "gaussian"]:
        """What the network's featurizer must give, as some statistic asks; "": anything."""
        asked = (statistic(term.statistic).representation for term in self.terms if term.weight)
        return next((one for one in asked if one), "")

    @property
    def uncovered(self) -> str | None:
        """Why examples cannot be protected one by one, whatever is aligned, after the recipe's name; None: they can."""
        if self.mixup_alpha:
            return "mixes examples with each other, so that none can be clipped by itself; set mixup_alpha to 0"
        if self.sam_radius:
            return "takes two gradients a step, of which one is accounted for; set sam_radius to 0"
        return None

    @property
    def least_examples(self) -> int:
        """Examples without which a domain, or a minibatch, cannot be trained on: what the neediest statistic needs."""
        return max((statistic(term.statistic).least_examples for term in self.terms if term.weight), default=1)

    @property
    def most_demanding(self) -> str:
        """The statistic that `least_examples` speaks of; "" where there is none."""
        active = (term.statistic for term in self.terms if term.weight)
        return max(active, key=lambda name: statistic(name).least_examples, default="")

    @property
    def exchanges(self) -> int:
        """Requests a client answers in one round, training included, evaluation not."""
        return len(self.measurements()) + 1


def in_local_steps(recipe: Recipe) -> Recipe:
    """A recipe as local steps take it: a Hessian times the batch's own gradient becomes one times the pooled gradient.

    The live product is unstable there at every weight that was tried: the penalty falls fastest where the own gradient
    grows along flat directions. Held constant for a round, the direction is that of the reference itself.
    """
    terms = tuple(replace(term, statistic=statistic(term.statistic).local or term.statistic) for term in recipe.terms)
    return replace(recipe, terms=terms)


def _rows(*rows: Recipe) -> Mapping[str, Recipe]:
    return {row.name: row for row in rows}


_HEMATI = "Hemati et al., ICCV 2023"

RECIPES: Mapping[str, Recipe] = _rows(
    Recipe("erm", source="Vapnik, 1998; federated: FedAvg, McMahan et al., AISTATS 2017"),
    Recipe("hgp", (Term("gradient"), Term("gradient_hessian_product")), source=_HEMATI),
    Recipe(
        "hutchinson",
        (Term("gradient"), Term("hutchinson_diagonal")),
        source=_HEMATI,
        pull="own signs differ even where the data agree",
    ),
    Recipe("hutchinson_shared", (Term("gradient"), Term("hutchinson_diagonal_shared")), source="fedha"),
    Recipe(
        "hutchinson_expected",
        (
            Term("gradient"),
            Term("hessian_diagonal"),
            Term("off_diagonal_energy", target="zero", distance="value", per_probe=True),
        ),
        source="fedha",
        pull="the expectation over own signs shrinks curvature",
    ),
    Recipe(
        "hutchinson_shared_expected",
        (Term("gradient"), Term("hessian_diagonal"), Term("hessian_off_diagonal", per_probe=True)),
        source="fedha",
    ),
    Recipe("exact_diagonal", (Term("gradient"), Term("hessian_diagonal")), source="fedha, after " + _HEMATI),
    Recipe(
        "irm",
        (Term("scale_gradient", target="zero"),),
        source="Arjovsky et al., 2019",
        pull="the target is zero, not the mean",
    ),
    Recipe("vrex", (Term("risk"),), source="Krueger et al., ICML 2021"),
    Recipe("iga", (Term("gradient"),), source="Koyama and Yamaguchi, 2020; head only"),
    Recipe(
        "fish",
        (Term("gradient", target="others", distance="inner"),),
        source="Shi et al., ICLR 2022; inner-product objective, head only",
        pull="the inner product also rewards a larger gradient",
    ),
    Recipe(
        "fishr",
        (Term("gradient_variance", distance="mean_squared", client_average=0.95),),
        source="Rame et al., ICML 2022",
    ),
    Recipe(
        "coral",
        (Term("feature_mean", distance="mean_squared"), Term("feature_covariance", distance="mean_squared")),
        source="Sun and Saenko, 2016; DomainBed's form",
    ),
    Recipe(
        "mmd",
        (Term("random_features"),),
        source="Li et al., CVPR 2018; DomainBed's kernels by random Fourier features (Rahimi and Recht, NeurIPS 2007)",
    ),
    Recipe(
        "rdm",
        (Term("risk_distribution"),),
        source="Nguyen et al., WACV 2024; each domain against the mean, not the worst alone",
    ),
    Recipe("groupdro", source="Sagawa et al., ICLR 2020", weighting="risk"),
    Recipe("afl", source="Mohri et al., ICML 2019", weighting="risk", projected=True),
    Recipe(
        "fedsr",
        (
            Term("representation_norm", 0.01, target="zero", distance="value"),
            Term("conditional_information", 0.001, target="zero", distance="value"),
        ),
        source="Nguyen et al., NeurIPS 2022; weights of FedDG_Benchmark",
        pull="it asks for a small representation, not for a shared one",
    ),
    Recipe("mixup", source="Zhang et al., ICLR 2018; within a domain", mixup_alpha=0.2),
    Recipe(
        "sam", source="Foret et al., ICLR 2021; each client's own ascent: FedSAM, Qu et al., ICML 2022", sam_radius=0.05
    ),
    Recipe(
        "fediir",
        (Term("gradient", reference_average=0.95),),
        source="Guo et al., ICML 2023",
        pull="the moving average starts at zero and lags behind the clients",
    ),
    Recipe(
        "cma",
        (Term("gradient", distance="mean_squared"), Term("hessian", distance="mean_squared")),
        source="Chen et al., UAI 2025; whole Hessian, for small heads",
    ),
    Recipe(
        "cma_diagonal",
        (Term("gradient", distance="mean_squared"), Term("hessian_diagonal", distance="mean_squared")),
        source="after Chen et al., UAI 2025; the Hessian's diagonal, for large heads",
    ),
)


def known_rows() -> tuple[str, ...]:
    """The names of all rows: fedha's own, then those of installed packages."""
    return (*RECIPES, *(name for name in plugins.installed(plugins.RECIPES) if name not in RECIPES))


def row(name: str) -> Recipe | None:
    """A row of the table by its name, fedha's own or an installed package's; None where there is none.

    Raises:
        FedhaError: The package's entry point names no `Recipe`, nor a function that makes one.
    """
    if name in RECIPES or name not in plugins.installed(plugins.RECIPES):
        return RECIPES.get(name)
    found = plugins.made(plugins.RECIPES, name)
    if not isinstance(found, Recipe):
        point = plugins.installed(plugins.RECIPES)[name]
        raise FedhaError(
            f"{plugins.whose(point)} adds recipe {name!r} as {point.value}, which is a {type(found).__name__}; let it "
            "name a fedha.recipes.Recipe"
        )
    return replace(found, name=name)
