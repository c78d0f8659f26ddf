"""The recipe section: a row of the table, or one of somebody's own."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field, model_validator

from fedha.config.section import Section
from fedha.named import call, is_own
from fedha.recipes import Recipe, Term, Units, known_rows, row
from fedha.registry import add_statistic, known, statistic
from fedha.schema import nearest

_AS_GIVEN = ("probes", "step_size", "mixup_alpha", "sam_radius")  # keys that are the row's own


class RecipeConfig(Section):
    """A row of the table (`fedha recipes`), or one of your own."""

    name: str = Field("custom", description="a row's name; any other name needs `align`")
    align: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description="weight of each statistic, your own as package.module:function; for a row, overrides its weights",
    )
    gradient_weight: float | None = Field(None, ge=0, description="weight of the row's gradient term")
    hessian_weight: float | None = Field(None, ge=0, description="weight of the row's second-order terms")
    weight: float = Field(1.0, ge=0, description="multiplies every term after the warm-up")
    units: Units = Field(
        "raw",
        description="what distances are measured in: raw, as published; features, powers of the features' mean square, "
        "so that one weight serves networks and data of any scale",
    )
    warmup_rounds: int = Field(0, ge=0, description="rounds at warmup_weight before weight takes over")
    warmup_weight: float = Field(1.0, ge=0, description="weight during the warm-up")
    rescale: bool = Field(False, description="divide the whole loss by the weight while it is over 1 (IRM's habit)")
    reset_optimizer: bool = Field(False, description="start the server's optimiser afresh when the warm-up ends")
    probes: int | None = Field(
        None, ge=1, description="hutchinson rows: sign vectors a round; mmd and rdm: frequencies of each kernel"
    )
    moving_average: float | None = Field(None, ge=0, lt=1, description="fishr, fediir: decay of the moving average")
    step_size: float | None = Field(None, gt=0, description="groupdro, afl: step of the domain weights")
    mixup_alpha: float | None = Field(
        None, ge=0, description="mix each example with another of its batch, in parts drawn from Beta(alpha, alpha)"
    )
    sam_radius: float | None = Field(
        None, ge=0, description="take gradients so far up the client's own loss (sharpness-aware minimization)"
    )

    @model_validator(mode="after")
    def _row_or_terms(self) -> "RecipeConfig":
        if row(self.name) is None and not self.align:
            raise ValueError(
                f"recipe {self.name!r} is no row of the table"
                f"{nearest(self.name, known_rows(), 'or give `align: {statistic: weight}` to make your own')}"
            )
        if self.align == {}:
            raise ValueError("align is empty; leave it out for the row's own terms, or take recipe erm for none")
        if self.align and (self.gradient_weight is not None or self.hessian_weight is not None):
            raise ValueError("align gives every weight; leave out gradient_weight and hessian_weight")
        for name in self.align or {}:
            if is_own(name):
                add_statistic(call("recipe.align", name, {}, {}), name)
            elif name not in known():
                own = "your own is package.module:function"
                raise ValueError(f"no statistic {name!r}{nearest(name, known(), own)}")
        self._check_used()
        return self

    def _check_used(self) -> None:
        """A setting that would change nothing is an error, not a surprise."""
        recipe = self.resolve()
        orders = {statistic(term.statistic).order for term in recipe.terms}
        used = {
            "gradient_weight": 1 in orders,
            "hessian_weight": 2 in orders,
            "probes": any(t.per_probe or statistic(t.statistic).probes for t in recipe.terms),
            "moving_average": any(
                t.client_average or t.reference_average for t in (row(self.name) or Recipe(self.name)).terms
            ),
            "step_size": recipe.weighting == "risk",
        }
        idle = [key for key, uses in used.items() if getattr(self, key) is not None and not uses]
        if self.units != "raw" and not any(term.degree for term in recipe.terms):
            idle.append("units")
        if idle:
            raise ValueError(f"recipe {self.name!r} does not use {' or '.join(idle)}; leave it out")

    def resolve(self) -> Recipe:
        """The recipe this describes: the table's row, or new terms, with the given weights and schedule."""
        found = row(self.name) or Recipe(self.name, source="this config")
        known = {term.statistic: term for term in found.terms}
        terms = [self._weighted(term) for term in found.terms]
        if self.align is not None:
            terms = [replace(known.get(name, Term(name)), weight=weight) for name, weight in self.align.items()]
        given = {key: value for key in _AS_GIVEN if (value := getattr(self, key)) is not None}
        schedule = {
            key: getattr(self, key)
            for key in ("weight", "warmup_rounds", "warmup_weight", "rescale", "reset_optimizer")
        }
        terms = [replace(self._averaged(term), units=self.units) for term in terms]
        return replace(found, terms=tuple(terms), **schedule, **given)

    def _weighted(self, term: Term) -> Term:
        weight = {1: self.gradient_weight, 2: self.hessian_weight}.get(statistic(term.statistic).order)
        return term if weight is None else replace(term, weight=weight)

    def _averaged(self, term: Term) -> Term:
        if self.moving_average is None:
            return term
        client = self.moving_average if term.client_average else 0.0
        reference = self.moving_average if term.reference_average else 0.0
        return replace(term, client_average=client, reference_average=reference)
