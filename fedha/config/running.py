"""The sections of how a run goes on: evaluation, checkpoints, where clients run and how they are waited for."""

from typing import Literal

from pydantic import Field

from fedha.config.section import ELSEWHERE, MAY_CHANGE, Section


class EvaluationConfig(Section):
    """What is evaluated, and when."""

    every: int = Field(1, ge=1, json_schema_extra=MAY_CHANGE, description="evaluate each k-th round, and the last")
    leave_one_domain_out: bool = Field(
        False, description="also train without each source in turn, for the leave-one-domain-out selection rule"
    )


class CheckpointConfig(Section):
    """What `fedha resume` continues from."""

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
