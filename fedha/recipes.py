"""The table of recipes: every algorithm is a row, {statistic: weight} with a target and a distance."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Target = Literal["mean", "zero", "others"]
Distance = Literal["squared", "mean_squared", "inner", "value"]


@dataclass(frozen=True)
class StatisticRow:
    """How a statistic enters a round.

    Attributes:
        reference: The statistic whose average is the reference; another one than itself for HGP, whose reference is the
            pooled ``mean_e(H_e g)``, with g already pooled.
        needs: References that must be known before this one can be measured; each costs an earlier exchange.
        order: 0, 1 or 2: derivatives of the risk in the head that it holds.
        summary: One phrase for tables.
        least_examples: Of how many examples it can be taken at all; domains and minibatches have so many.
    """

    reference: str
    needs: tuple[str, ...] = ()
    order: int = 0
    summary: str = ""
    least_examples: int = 1


STATISTICS: Mapping[str, StatisticRow] = {
    "risk": StatisticRow("risk", summary="mean negative log-likelihood"),
    "gradient": StatisticRow("gradient", order=1, summary="head gradient"),
    "hessian_diagonal": StatisticRow("hessian_diagonal", order=2, summary="exact Hessian diagonal"),
    "gradient_hessian_product": StatisticRow(
        "pooled_gradient_hessian_product", needs=("gradient",), order=2, summary="Hessian times gradient"
    ),
    "pooled_gradient_hessian_product": StatisticRow(
        "pooled_gradient_hessian_product", needs=("gradient",), order=2, summary="Hessian times the mean gradient"
    ),
    "hutchinson_diagonal": StatisticRow(
        "hutchinson_diagonal", order=2, summary="Hutchinson's diagonal, a client's own signs"
    ),
    "hutchinson_diagonal_shared": StatisticRow(
        "hutchinson_diagonal_shared", order=2, summary="Hutchinson's diagonal, the round's signs"
    ),
    "hessian": StatisticRow("hessian", order=2, summary="whole Hessian"),
    "hessian_off_diagonal": StatisticRow("hessian_off_diagonal", order=2, summary="off-diagonal Hessian"),
    "off_diagonal_energy": StatisticRow("off_diagonal_energy", order=2, summary="size of the off-diagonal Hessian"),
    "gradient_variance": StatisticRow("gradient_variance", order=1, summary="variance of example gradients"),
    "feature_mean": StatisticRow("feature_mean", summary="feature mean"),
    "feature_covariance": StatisticRow("feature_covariance", summary="feature covariance", least_examples=2),
    "scale_gradient": StatisticRow("scale_gradient", order=1, summary="derivative in a dummy scale"),
}


# Statistics that are no function of means over examples, so that nothing bounds what one example adds: why, and what
# can be aligned in their place where every example is protected (`fedha.privacy.releasable` has those that can).
UNRELEASABLE: Mapping[str, str] = {
    "gradient_hessian_product": "the product of two means is no mean over examples; "
    "align pooled_gradient_hessian_product, the Hessian times the pooled gradient, instead",
    "hutchinson_diagonal": "a probe's term is no outer product, and the probes add noise without adding privacy; "
    "align hessian_diagonal, their expectation, instead",
    "hutchinson_diagonal_shared": "a probe's term is no outer product, and the probes add noise without adding "
    "privacy; align hessian_diagonal, their expectation, instead",
    "hessian": "noise on (C D)^2 entries drowns it; align hessian_diagonal instead",
    "hessian_off_diagonal": "noise on (C D)^2 entries drowns it; align hessian_diagonal instead",
    "off_diagonal_energy": "it is quadratic in the whole Hessian, whose entries noise would drown; "
    "align hessian_diagonal instead",
}


@dataclass(frozen=True)
class Term:
    """One term of a penalty.

    Attributes:
        statistic: A key of `STATISTICS`.
        weight: Multiplies the term; the recipe's own weight multiplies it again.
        target: What the statistic is compared with: the clients' mean, zero, or the mean of the other clients.
        distance: Squared (a sum over entries), mean squared, the negative inner product, or the value itself.
        client_average: Decay of the client's own moving average of the statistic (Fishr); 0: none.
        reference_average: Decay of the server's moving average of the reference (FedIIR); 0: none.
        per_probe: Whether the weight is divided by the number of probes (expectations over signs).
    """

    statistic: str
    weight: float = 1.0
    target: Target = "mean"
    distance: Distance = "squared"
    client_average: float = 0.0
    reference_average: float = 0.0
    per_probe: bool = False


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
        step_size: Step of group DRO's domain weights.
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

    def scheduled_weight(self, round: int) -> float:
        """The weight in a round, counted from 1."""
        return self.warmup_weight if round <= self.warmup_rounds else self.weight

    def measurements(self) -> tuple[tuple[str, ...], ...]:
        """What is measured for the references: one tuple of statistics an exchange, in order."""
        wanted = [STATISTICS[t.statistic] for t in self.terms if t.target != "zero" and t.weight > 0]
        first = [row.reference for row in wanted if not row.needs] + [n for row in wanted for n in row.needs]
        second = [row.reference for row in wanted if row.needs]
        return tuple(tuple(dict.fromkeys(names)) for names in (first, second) if names)

    @property
    def least_examples(self) -> int:
        """Examples without which a domain, or a minibatch, cannot be trained on: what the neediest statistic needs."""
        return max((STATISTICS[term.statistic].least_examples for term in self.terms if term.weight), default=1)

    @property
    def most_demanding(self) -> str:
        """The statistic that `least_examples` speaks of; "" where there is none."""
        active = (term.statistic for term in self.terms if term.weight)
        return max(active, key=lambda name: STATISTICS[name].least_examples, default="")

    @property
    def exchanges(self) -> int:
        """Requests a client answers in one round, training included, evaluation not."""
        return len(self.measurements()) + 1


def in_local_steps(recipe: Recipe) -> Recipe:
    """A recipe as local steps take it: a Hessian times the batch's own gradient becomes one times the pooled gradient.

    The live product is unstable there at every weight that was tried: the penalty falls fastest where the own gradient
    grows along flat directions. Held constant for a round, the direction is that of the reference itself.
    """
    held = {"gradient_hessian_product": "pooled_gradient_hessian_product"}
    terms = tuple(replace(term, statistic=held.get(term.statistic, term.statistic)) for term in recipe.terms)
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
    Recipe("groupdro", source="Sagawa et al., ICLR 2020", weighting="risk"),
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
)
