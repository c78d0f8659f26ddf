"""The attacks by name: what each is called and how its success is measured."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """A row.

    Attributes:
        title: What tables call it.
        short: What a line in its figure is called.
        family: Which figure it is drawn in.
        measure: What its value is.
        unit: "%" for shares, "dB", or "".
        lower_is_better: Whether a smaller value is more success for the attack (errors).
    """

    title: str
    short: str
    family: str
    measure: str
    unit: str = ""
    lower_is_better: bool = False

    def text(self, value: float) -> str:
        """A value as people read it."""
        return (
            f"{100 * value:.1f} %" if self.unit == "%" else f"{value:.1f} dB" if self.unit == "dB" else f"{value:.3f}"
        )


_LABELS = ("label counts", "examples in the right class count", "%")
_TRACING = ("membership from what was sent", "AUC")
_FINAL = ("membership from the final model", "AUC")

ATTACKS: Mapping[str, Attack] = {
    "labels_uniform": Attack("label counts: gradient, uniform prior", "gradient", *_LABELS),
    "labels_public": Attack("label counts: gradient, public prior", "public prior", *_LABELS),
    "labels_hessian": Attack("label counts: gradient and Hessian diagonal", "with diagonal", *_LABELS),
    "labels_variance": Attack("label counts: gradient and its variance", "with variance", *_LABELS),
    "feature_exact": Attack(
        "the feature of a single example", "single example", "features", "relative error", lower_is_better=True
    ),
    "feature_class_means": Attack("class means of the features", "class means", "features", "cosine similarity"),
    "feature_moments": Attack(
        "second moments of the features", "second moments", "features", "relative error", lower_is_better=True
    ),
    "feature_heads": Attack(
        "single features from gradients at many heads, where diagnoses are answered",
        "many heads",
        "features from a diagnosis",
        "examples recovered",
        "%",
    ),
    "input_exact": Attack("the input of a single example, first layer", "first layer", "inputs", "PSNR", "dB"),
    "input_update": Attack("inputs from the update", "update", "inputs", "PSNR", "dB"),
    "input_head": Attack("inputs from the head gradient", "head gradient", "inputs", "PSNR", "dB"),
    "tracing_gradient": Attack("membership: head gradient", "gradient", *_TRACING),
    "tracing_diagonal": Attack("membership: Hessian diagonal", "diagonal", *_TRACING),
    "tracing_feature_mean": Attack("membership: feature mean", "feature mean", *_TRACING),
    "tracing_joint": Attack("membership: all sent statistics together", "all together", *_TRACING),
    "membership_loss": Attack("membership: loss threshold", "loss", *_FINAL),
    "membership_lira": Attack("membership: likelihood ratio, shadow models", "likelihood ratio", *_FINAL),
}
