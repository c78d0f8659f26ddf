"""The privacy section: what a client's answers may give away."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fedha.config.section import MAY_CHANGE, Section
from fedha.registry import moments
from fedha.schema import nearest

SMALLEST, LARGEST = 1e-12, 1e12  # of clips and scales: what bounds on sums are proven for, and more than anybody needs

_Size = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]


class PrivacyConfig(Section):
    """What a client's answers may give away."""

    protect: Literal["nothing", "examples", "clients"] = Field(
        "nothing",
        description="examples: clip and noise at each client, so that no example shows; clients: the same on the sum",
    )
    noise_multiplier: float | None = Field(
        None,
        gt=0,
        le=LARGEST,
        description="deviation of the noise over the clipping norm; `fedha privacy plan` finds it",
    )
    clip: _Size = Field(1.0, description="largest norm of one example's gradient, or of one client's update")
    statistics_noise: _Size = Field(1.0, description="noise of the statistics, in units of noise_multiplier")
    statistics_clip: _Size = Field(
        1.0, description="largest norm of what one example, or one client, adds to the statistics"
    )
    scales: dict[str, _Size] = Field(
        {}, description="examples: public factor of a moment in the joint clip, such as {hessian_diagonal: 0.1}"
    )
    evaluation_noise: float | None = Field(
        None, gt=0, le=LARGEST, description="examples: noise multiplier of the held-out accuracy; null: it is not sent"
    )
    sampling: Literal["whole", "poisson", "shuffled"] = Field(
        "whole", description="how local steps draw examples, and what the accountant assumes"
    )
    delta: float | None = Field(None, gt=0, lt=1, description="default: a tenth of one over the client's examples")
    max_epsilon: float | None = Field(
        None, gt=0, json_schema_extra=MAY_CHANGE, description="training ends before a client spends more"
    )
    min_examples: int = Field(1, ge=1, description="a client with fewer does not answer")
    guard_heads: bool = Field(
        True, description="examples: a client does not answer where the head looks crafted: rows alike, or huge"
    )
    secure_aggregation: bool = Field(False, description="an honest but curious server learns sums alone")
    threshold: int | None = Field(None, ge=2, description="secure sums: so many clients must stay to the end")
    minimum: int = Field(3, ge=2, description="secure sums: none of fewer clients is learnt")
    bound: float = Field(
        65536.0, ge=1, le=2**40, description="secure sums: largest absolute value, weight included, that can be sent"
    )

    @field_validator("scales")
    @classmethod
    def _moments_are_known(cls, scales: dict[str, float]) -> dict[str, float]:
        for name in scales:
            if name not in moments():
                raise ValueError(f"no moment {name!r}{nearest(name, moments())}")
        return scales

    @model_validator(mode="after")
    def _noise_is_given(self) -> "PrivacyConfig":
        if self.protect != "nothing" and self.noise_multiplier is None:
            raise ValueError(
                f"protect is {self.protect!r}, which takes noise; give noise_multiplier: "
                "`fedha privacy plan CONFIG` finds the one that a budget needs"
            )
        return self
