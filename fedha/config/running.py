"""The sections of how a run goes on: evaluation, checkpoints, where clients run and how they are waited for."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedha.config.choosing import SelectConfig, by_name
from fedha.config.section import ELSEWHERE, MAY_CHANGE, Section
from fedha.metrics.choice import Choice
from fedha.metrics.table import allow, check_name


class EvaluationConfig(Section):
    """What is evaluated, and when."""

    every: int = Field(1, ge=1, json_schema_extra=MAY_CHANGE, description="evaluate each k-th round, and the last")
    metrics: list[str] = Field([], description="beside accuracy and risk: names, or package.module:function")
    groups: str | None = Field(
        None, min_length=1, description="column by whose values examples are also told apart; group: the data's groups"
    )
    select_by: SelectConfig = Field(
        SelectConfig(), json_schema_extra=MAY_CHANGE, description="what selection rules compare: a metric's name"
    )
    diagnose_every: int | None = Field(
        None,
        ge=1,
        json_schema_extra=MAY_CHANGE,
        description="log how far sources' gradients and Hessians are apart after each k-th round, and the last",
    )
    leave_one_domain_out: bool = Field(
        False, description="also train without each source in turn, for the leave-one-domain-out selection rule"
    )

    @field_validator("metrics", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: list[str]) -> list[str]:
        for name in value:
            check_name(name)
            allow(name)
        if twice := [one for one in value if value.count(one) > 1]:
            raise ValueError(f"evaluation.metrics names {twice[0]!r} twice; name each once")
        return value

    @field_validator("select_by", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return by_name(value)

    def problem(self, key: str, choice: Choice) -> str | None:
        """Why nothing can be chosen by a number, in a sentence; None where it can.

        Args:
            key: Of the config.
            choice: The number.
        """
        if choice.metric != "accuracy" and choice.metric not in self.metrics:
            try:
                check_name(choice.metric)
            except ValueError as error:
                return f"{key}: {error}"
            return f"{key} is {choice.metric!r}, which is not among evaluation.metrics; add it there"
        if choice.over == "worst_group" and self.groups is None:
            return f"{key} looks at the worst group and evaluation.groups names no column; set it"
        return None

    @model_validator(mode="after")
    def _can_select(self) -> "EvaluationConfig":
        if problem := self.problem("evaluation.select_by", self.select_by.choice):
            raise ValueError(problem)
        return self


class CheckpointConfig(Section):
    """What `fedha resume` continues from, and which rounds' models stay."""

    keep: Literal["last", "best"] | Annotated[int, Field(ge=1)] = Field(
        "last", description="models of rounds that stay: the last; best: also those that a rule selects; k: each k-th"
    )

    every: int = Field(50, ge=1, description="save each k-th round, and the last")
    minutes: float | None = Field(
        5.0, gt=0, description="save also where so many minutes have passed since the last time; null: never"
    )


class EngineConfig(Section):
    """Where clients run."""

    name: Literal["auto", "inline", "ray", "flower"] = Field(
        "auto",
        json_schema_extra=ELSEWHERE,
        description="auto picks; inline: this process; ray: worker processes; flower: flwr run",
    )
    threads: int = Field(
        1, ge=1, json_schema_extra=ELSEWHERE, description="torch threads a client; a sum's bits depend on it"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", json_schema_extra=ELSEWHERE, description="where clients compute; auto: on a GPU if any"
    )
    workers: int | None = Field(
        None,
        ge=1,
        json_schema_extra=ELSEWHERE,
        description="ray: processes; default: cores over threads, or by the GPUs",
    )
    clients_per_gpu: int = Field(
        1,
        ge=1,
        json_schema_extra=ELSEWHERE,
        description="ray: workers that share a GPU, each with its part of the memory",
    )
    batching: bool | None = Field(
        None,
        json_schema_extra=ELSEWHERE,
        description="train small clients of a process together; default: with ray, whose bits then differ",
    )
    address: str | None = Field(
        None, json_schema_extra=ELSEWHERE, description="ray: a running cluster, such as auto or ray://head:10001"
    )
    on_client_error: Literal["stop", "skip"] = Field(
        "stop",
        description="a client that fails, or whose answer does not count, ends the run, or is left out and counted",
    )
    client_timeout: float | None = Field(
        None, gt=0, json_schema_extra=ELSEWHERE, description="ray: seconds a client may take for one answer"
    )


class FederationConfig(Section):
    """How server and clients of a deployment wait for each other, and how often they talk."""

    schedule: Literal["exact", "piggyback"] = Field(
        "exact",
        description="exact: an exchange for each step; piggyback: one a round, statistics and evaluation ride along",
    )
    clients: int | None = Field(None, ge=1, description="deployment: how many there are; default: by the data")
    min_clients: int | None = Field(
        None,
        ge=1,
        json_schema_extra=MAY_CHANGE,
        description="a round goes on with so many; default: all of the round's",
    )
    on_missing: Literal["stop", "wait", "skip"] = Field(
        "wait",
        json_schema_extra=MAY_CHANGE,
        description="a client that is gone or silent ends the run, is waited for, or is left out of the round",
    )
    timeout: float = Field(
        3600.0,
        gt=0,
        json_schema_extra=MAY_CHANGE,
        description="seconds for one exchange; who is silent for longer is missing",
    )
    patience: float = Field(
        86400.0,
        gt=0,
        json_schema_extra=MAY_CHANGE,
        description="seconds to wait for clients that are missing, before the run ends and can be resumed",
    )
