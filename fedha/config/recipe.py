"""The recipe section: a row of the table, or one of somebody's own."""

from dataclasses import asdict, fields, replace
from math import inf
from typing import Annotated, Any, Literal

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
    terms: tuple[Term, ...] | None = Field(
        None,
        description="a row of your own, in the place of align: for each term its statistic and, where they are not the "
        "usual ones, weight, target, distance, client_average, reference_average, per_probe, units",
    )
    weighting: Literal["average", "risk"] | None = Field(
        None, description="of a row of your own with terms: how the server weighs clients (risk: as groupdro)"
    )
    projected: bool | None = Field(None, description="likewise: whether weights by risk are projected, as in afl")
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
        if row(self.name) is None and not self.align and self.terms is None:
            raise ValueError(
                f"recipe {self.name!r} is no row of the table"
                f"{nearest(self.name, known_rows(), 'or give `align: {statistic: weight}` to make your own')}"
            )
        if self.align == {}:
            raise ValueError("align is empty; leave it out for the row's own terms, or take recipe erm for none")
        if (self.align or self.terms) and (self.gradient_weight is not None or self.hessian_weight is not None):
            raise ValueError("align gives every weight; leave out gradient_weight and hessian_weight")
        self._check_terms()
        for name in (*(self.align or {}), *(term.statistic for term in self.terms or ())):
            if is_own(name):
                add_statistic(call("recipe.align", name, {}, {}), name)
            elif name not in known():
                own = "your own is package.module:function"
                raise ValueError(f"no statistic {name!r}{nearest(name, known(), own)}")
        self._check_used()
        return self

    def _check_terms(self) -> None:
        if self.terms is None and (self.weighting is not None or self.projected is not None):
            raise ValueError("weighting and projected are of a row of your own; give its terms, or leave them out")
        if self.terms is not None and self.align is not None:
            raise ValueError("align and terms both say what is aligned; keep one")
        for term in self.terms or ():
            for name, ends in (("weight", inf), ("client_average", 1.0), ("reference_average", 1.0)):
                if not 0 <= getattr(term, name) < ends:
                    below = "" if ends == inf else f" and below {ends:g}"
                    told = f"{name} of {term.statistic} is {getattr(term, name):g}"
                    raise ValueError(f"terms: {told}; give a number from 0{below}")

    def _row(self) -> Recipe:
        """What it begins with: the terms that are given, or the table's row, or a new one."""
        if self.terms is None:
            return row(self.name) or Recipe(self.name, source="this config")
        mine = Recipe(self.name, self.terms, source="this config", projected=bool(self.projected))
        return replace(mine, weighting=self.weighting or "average")

    def _check_used(self) -> None:
        """A setting that would change nothing is an error, not a surprise."""
        recipe = self.resolve()
        orders = {statistic(term.statistic).order for term in recipe.terms}
        used = {
            "gradient_weight": 1 in orders,
            "hessian_weight": 2 in orders,
            "probes": any(t.per_probe or statistic(t.statistic).probes for t in recipe.terms),
            "moving_average": any(t.client_average or t.reference_average for t in self._row().terms),
            "step_size": recipe.weighting == "risk",
        }
        idle = [key for key, uses in used.items() if getattr(self, key) is not None and not uses]
        if self.units != "raw" and not any(term.degree for term in recipe.terms):
            idle.append("units")
        if idle:
            raise ValueError(f"recipe {self.name!r} does not use {' or '.join(idle)}; leave it out")

    def resolve(self) -> Recipe:
        """The recipe this describes: the table's row, or new terms, with the given weights and schedule."""
        found = self._row()
        known = {term.statistic: term for term in found.terms}
        terms = [self._weighted(term) for term in found.terms]
        if self.align is not None:
            terms = [replace(known.get(name, Term(name)), weight=weight) for name, weight in self.align.items()]
        given = {key: value for key in _AS_GIVEN if (value := getattr(self, key)) is not None}
        schedule = {
            key: getattr(self, key)
            for key in ("weight", "warmup_rounds", "warmup_weight", "rescale", "reset_optimizer")
        }
        terms = [self._averaged(term) for term in terms]
        terms = [term if self.units == "raw" else replace(term, units=self.units) for term in terms]
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


def as_settings(recipe: Recipe) -> dict[str, Any]:
    """What a config says for a recipe that a program made: all of it, so that every process and every resume has it."""
    if row(recipe.name) == recipe:
        return {"name": recipe.name}
    values = {one: getattr(recipe, one.name) for one in fields(recipe) if one.name not in ("terms", "source", "pull")}
    given = {one.name: value for one, value in values.items() if value != one.default}
    return {**given, "name": recipe.name, "terms": [asdict(term) for term in recipe.terms]}
