"""The data sets: each gives source domains and targets that nobody trains on."""

from collections.abc import Callable

from fedha.config import DataConfig
from fedha.data import arrays, digits, heart, mnist
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.errors import FedhaError

__all__ = ["Domain", "DomainSet", "Examples", "load"]

_COLORED = frozenset({"held_out", "color_flips", "target_color_flip", "label_noise", "grayscale_target"})
_ANY = frozenset({"name", "root", "clients_per_domain"})
_NATURAL = frozenset({"held_out", "sources", "target"})

# Each data set's loader and the options that it reads; those of `_ANY` are everybody's.
_DATA_SETS: dict[str, tuple[Callable[[DataConfig, int], DomainSet], frozenset[str]]] = {
    "colored_digits": (digits.load, _COLORED),
    "colored_mnist": (mnist.load, _COLORED | {"download", "imbalance", "imbalance_ratio"}),
    "heart": (heart.load, _NATURAL),
    "arrays": (arrays.load, _NATURAL),
}


def load(config: DataConfig, seed: int) -> DomainSet:
    """Load the configured data set: the same config and seed give the same domains, bit for bit.

    Args:
        config: Which data set, and its options.
        seed: The run's seed; it decides shuffles, splits, label noise and colours.

    Returns:
        Domains with float32 inputs and int64 labels, checked.

    Raises:
        FedhaError: An option that the data set does not read, a missing or broken file, an unknown domain name, or
            data that `DomainSet.check` refuses.
    """
    loader, read = _DATA_SETS[config.name]
    for option, field in DataConfig.model_fields.items():
        value = getattr(config, option)
        if option not in read | _ANY and value != field.get_default():
            readers = ", ".join(name for name, (_, options) in _DATA_SETS.items() if option in options)
            raise FedhaError(
                f"data.{option} is {value!r}, which {config.name} does not read; remove it, or take {readers}"
            )
    return loader(config, seed).check()
