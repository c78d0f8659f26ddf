"""What images become, where a config leaves it to its network."""

from fedha.config import Config, DataConfig
from fedha.models.wanted import wanted_input


def resolved(config: Config, *, alone: bool = False) -> tuple[DataConfig, str]:
    """The data's config with the size, channels and interpolation of images that the network is usually given.

    Args:
        config: One that names them itself is not changed.
        alone: Whether it is for a site, or for a deployment's server: there size and channels must be named.

    Returns:
        The config, and what nobody asked for, in a sentence's end; "" for nothing.

    Raises:
        FedhaError: There is no such network.
    """
    data = config.data
    left = [key for key in ("size", "channels", "interpolation") if getattr(data, key) is None]
    if data.name != "folder" or not left or (wanted := wanted_input(config.model)) is None:
        return data, ""
    keys = [key for key in left if getattr(wanted, key) is not None and not (alone and key != "interpolation")]
    name = config.model.options.get("architecture", config.model.name)
    told = f"{' and '.join(keys)} of images as {name} is usually given" if keys else ""
    return data.model_copy(update={key: getattr(wanted, key) for key in keys}), told
