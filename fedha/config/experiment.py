"""One experiment: all sections, and what of one does not fit another."""

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from fedha.config.data import DataConfig, keys_of
from fedha.config.model import ModelConfig
from fedha.config.privacy import PrivacyConfig
from fedha.config.recipe import RecipeConfig
from fedha.config.running import CheckpointConfig, EngineConfig, EvaluationConfig, FederationConfig
from fedha.config.section import ELSEWHERE, MAY_CHANGE, Section
from fedha.config.training import TrainingConfig
from fedha.errors import FedhaError
from fedha.metrics.table import metric
from fedha.registry import statistic
from fedha.rules.table import RULES, allow, named_rule

POOLED = "all sources"  # stands in the place of domains' names where secure sums are all that the server learns


class Config(Section):
    """One experiment; several recipes or seeds make several runs."""

    name: str = Field("experiment", min_length=1, description="what the run's folder and report are called")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    recipe: list[RecipeConfig] = Field([RecipeConfig(name="hgp")], min_length=1, description="one or several")
    seed: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1, description="one or several")
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), json_schema_extra=ELSEWHERE)
    federation: FederationConfig = FederationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    engine: EngineConfig = Field(EngineConfig(), json_schema_extra=MAY_CHANGE)

    @field_validator("name")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError(f"{value!r} has characters that cannot be printed; use letters, digits and punctuation")
        return value

    @field_validator("recipe", mode="before")
    @classmethod
    def _recipes(cls, value: Any) -> Any:
        many = value if isinstance(value, list) else [value]
        return [{"name": one} if isinstance(one, str) else one for one in many]

    @field_validator("seed", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    @model_validator(mode="after")
    def _schedule_fits_recipe(self) -> "Config":
        for recipe in self.recipe if self.federation.schedule == "piggyback" else ():
            if any(term.target == "others" for term in recipe.resolve().terms):
                raise ValueError(
                    f"recipe {recipe.name!r} subtracts a client's own statistic from the mean, so both must be of one "
                    "model; set federation.schedule to exact"
                )
        return self

    @model_validator(mode="after")
    def _shares_fit_recipe(self) -> "Config":
        for recipe in self.recipe:
            if self.training.averaging == "examples" and any(t.target == "others" for t in recipe.resolve().terms):
                raise ValueError(
                    f"recipe {recipe.name!r} takes pairs of domains alike; set training.averaging to domains"
                )
        return self

    @model_validator(mode="after")
    def _evaluation_fits(self) -> "Config":
        """What is asked of an evaluation must be there, and may be told where clients' numbers are covered."""
        evaluation, stop, privacy = self.evaluation, self.training.stop, self.privacy
        if stop is not None and (problem := evaluation.problem("training.stop", stop.choice)):
            raise ValueError(problem)
        if stop is not None and privacy.protect == "examples" and privacy.evaluation_noise is None:
            raise ValueError(
                "training.stop looks at what sources hold out, which is not evaluated where "
                "privacy.evaluation_noise is not given; give it, or leave stop out"
            )
        more = [name for name in evaluation.metrics if name != "accuracy"]
        if privacy.protect == "examples" and (more or evaluation.groups):
            asked = f"metrics names {more[0]!r}" if more else f"groups is {evaluation.groups!r}"
            raise ValueError(
                f"evaluation.{asked}, but privacy.protect is 'examples' and its ledger covers accuracy alone: any "
                "other number of the held-out examples would be a release of its own; leave it out"
            )
        if problem := self._unsummable():
            raise ValueError(problem)
        if privacy.secure_aggregation and evaluation.groups:
            raise ValueError(
                f"evaluation.groups is {evaluation.groups!r}, but with privacy.secure_aggregation nobody tells which "
                "groups it has; leave it out"
            )
        return self

    def _unsummable(self) -> str | None:
        """Why a metric is none where several clients' numbers are added, in a sentence; None where all are."""
        several = self.data.clients_per_domain > 1 or self.data.partition is not None
        if not several and not self.privacy.secure_aggregation:
            return None
        shared = "data.partition" if self.data.partition is not None else "data.clients_per_domain over 1"
        for name in self.evaluation.metrics:
            try:
                if metric(name).of_scores:
                    where = shared if several else "privacy.secure_aggregation"
                    return (
                        f"evaluation.metrics names {name!r}, which needs all examples of a domain in one place: with "
                        f"{where} there is none; leave it out, or take metrics of counts"
                    )
            except FedhaError as error:
                return str(error)
        return None

    @model_validator(mode="after")
    def _weights_are_known(self) -> "Config":
        problem = self.training.weighs_by_counts(self.privacy.protect, self.privacy.secure_aggregation)
        if problem:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _steps_are_covered(self) -> "Config":
        for recipe in self.recipe:
            if problem := self.training.uncovered(recipe.resolve(), self.privacy.protect):
                raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _averaging_fits(self) -> "Config":
        if self.training.weight_averaging is not None and self.federation.schedule == "piggyback":
            raise ValueError(
                "training.weight_averaging shows another model than the one that is trained, which is what clients "
                "evaluate as they train where federation.schedule is 'piggyback'; set that to exact"
            )
        return self

    @model_validator(mode="after")
    def _batches_fit_recipe(self) -> "Config":
        size = self.training.local.batch_size if self.training.mode == "local" else None
        for recipe in self.recipe if size is not None and self.privacy.protect != "examples" else ():
            row = recipe.resolve()
            if size is not None and size < row.least_examples:
                raise ValueError(
                    f"training.local.batch_size is {size} but recipe {recipe.name!r} aligns {row.most_demanding}, "
                    f"which needs {row.least_examples} examples in each minibatch; raise it"
                )
        return self

    @model_validator(mode="after")
    def _rule_fits(self) -> "Config":
        """What a rule of the table refuses is said where the config is read; somebody's own is made where it runs."""
        allow(self.training.optimizer)
        allow(self.training.weight_averaging)
        given = self.training.optimizer
        name, options = ("", {}) if given is None else named_rule(given)
        if name in RULES and (RULES[name].at_clients or any(one in RULES[name].options for one in options)):
            from fedha.rules.found import refusal, server_rule  # which know tensors, and are slow to import

            try:
                problem = refusal(server_rule(self.training), self.training, self.privacy)
            except FedhaError as error:
                raise ValueError(str(error)) from error
            if problem:
                raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _images_fit_privacy(self) -> "Config":
        if self.privacy.protect == "examples" and self.data.augment != "none":
            raise ValueError(
                "data.augment changes an image by its place among the others, which privacy.protect: examples does not "
                "allow: what one example sends must not depend on another; set data.augment: none"
            )
        return self

    @model_validator(mode="after")
    def _views_are_of_changed_images(self) -> "Config":
        views, own = self.model.features.views, {"options", "digest"} & {*keys_of(self.data.name)}
        if views and self.data.augment == "none" and not own:
            raise ValueError(
                f"model.features.views is {views}, but data.augment is none, so that an input has one view; set "
                "data.augment, or leave views out"
            )
        return self

    @model_validator(mode="after")
    def _sums_fit_recipe(self) -> "Config":
        if not self.privacy.secure_aggregation:
            return self
        for recipe in self.recipe:
            if recipe.resolve().weighting == "risk":
                raise ValueError(
                    f"recipe {recipe.name!r} weighs each domain by its own risk, which the server does not learn with "
                    "privacy.secure_aggregation; set that to false, or take another recipe"
                )
        if self.training.client_sampling == "examples":
            raise ValueError(
                "training.client_sampling is 'examples' but with privacy.secure_aggregation the server does not learn "
                "how many examples a client has; set it to uniform"
            )
        for key, clients in (
            ("training.clients_per_round", self.training.clients_per_round),
            ("federation.clients", self.federation.clients),
        ):
            if isinstance(clients, int) and clients < self.privacy.minimum:
                raise ValueError(
                    f"{key} is {clients} but privacy.minimum is {self.privacy.minimum} for secure sums; raise it "
                    "(in a sum of two each client knows the other's part)"
                )
        return self

    @model_validator(mode="after")
    def _privacy_fits(self) -> "Config":
        if self.privacy.protect != "nothing":
            for problem in (self._uncovered_parts(), self._uncovered_steps(), self._uncovered_recipes()):
                if problem:
                    raise ValueError(f"privacy.protect is {self.privacy.protect!r}, but {problem}")
        return self

    def _uncovered_parts(self) -> str | None:
        if self.federation.schedule == "piggyback":
            return (
                "what rides along with an update is not accounted for; set federation.schedule to exact, or protect to "
                "nothing"
            )
        if self.evaluation.leave_one_domain_out:
            return (
                "each fold of leave-one-domain-out is a run over the same examples, which no ledger adds up; set "
                "evaluation.leave_one_domain_out to false"
            )
        return None

    def _uncovered_steps(self) -> str | None:
        """Batches that are not drawn as the accountant would believe; or weights that depend on who else is there."""
        training, sampling = self.training, self.privacy.sampling
        if self.privacy.protect == "clients":
            if training.averaging != "clients":
                return (
                    f"with training.averaging {training.averaging!r} a client's weight tells who else takes part; set "
                    "it to clients"
                )
            if self.privacy.secure_aggregation:
                return (
                    "the server cannot clip a client's answer that it never sees; leave out secure_aggregation, or "
                    "protect examples"
                )
            return None
        drawn = "training.batch_size" if training.mode == "synchronous" else "training.local.measure"
        if training.batch_size is not None or training.local.measure != "all":
            return f"{drawn} draws the examples that are measured, which no ledger knows of; leave it out"
        if training.mode == "synchronous":
            whole = "a synchronous step is one gradient over the whole domain; set privacy.sampling to whole"
            return None if sampling == "whole" else whole
        if (sampling == "whole") != (training.local.batch_size is None):
            return (
                f"privacy.sampling is {sampling!r} and training.local.batch_size {training.local.batch_size}; whole "
                "goes with null (every step sees every example), poisson and shuffled with a number"
            )
        return None

    def _uncovered_recipes(self) -> str | None:
        for given in self.recipe:
            recipe = given.resolve()
            active = [term.statistic for term in recipe.terms if term.weight > 0]
            if self.privacy.protect == "clients":
                if recipe.weighting == "risk":
                    return (
                        f"recipe {recipe.name!r} weighs clients by their risks, which are no part of a clipped sum; "
                        "take another recipe, or protect examples"
                    )
                continue
            for name in active:
                if reason := statistic(name).refusal:
                    return f"recipe {recipe.name!r} aligns {name}, which cannot be covered: {reason}"
            if self.model.head_hidden and (active or recipe.weighting == "risk"):
                return (
                    f"recipe {recipe.name!r} measures the head, which then must be linear; leave model.head_hidden "
                    "empty, or take recipe erm"
                )
        return None

    @property
    def network(self) -> ModelConfig:
        """The network of a run: with the representation that its recipe asks for, where the config names none."""
        wanted = self.recipe[0].resolve().representation
        if self.model.representation is not None or not wanted:
            return self.model
        return self.model.model_copy(update={"representation": wanted})

    @model_validator(mode="after")
    def _representation_fits_recipe(self) -> "Config":
        for recipe in self.recipe if self.model.representation == "point" else ():
            if recipe.resolve().representation:
                raise ValueError(
                    f"recipe {recipe.name!r} aligns a {recipe.resolve().representation} representation, and "
                    "model.representation is 'point'; leave that out"
                )
        return self

    def runs(self) -> "list[Config]":
        """This config as single runs: one recipe and one seed each, recipes first."""
        return [
            self.model_copy(update={"recipe": [recipe], "seed": [seed]}) for recipe in self.recipe for seed in self.seed
        ]
