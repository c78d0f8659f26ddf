"""Data to try a federation with: each client gets one source domain of an experiment, and nothing of the others."""

from collections.abc import Sequence

from fedha.config import Config
from fedha.deploy.locations import InitFolder
from fedha.errors import FedhaError


def fill(init_folder: InitFolder, clients: Sequence[str], config: Config) -> None:
    """Write each client's domain into its data folder.

    Args:
        init_folder: Has the folders of these clients.
        clients: In client order, which is that of the sources.
        config: Names the data.

    Raises:
        FedhaError: There are not as many sources as clients, or the data cannot be had.
    """
    from fedha.data.export import FILE, write_domain  # these import torch, which a federation without data needs not
    from fedha.flower.serve import load_domains

    domains = load_domains(config)
    if len(domains.sources) != len(clients):
        raise FedhaError(
            f"the demonstration's data are for {len(domains.sources)} clients and {len(clients)} are named; "
            "name as many, or add --no-demo"
        )
    for name, domain in zip(clients, domains.sources, strict=True):
        path = init_folder.site(name) / "data" / FILE
        write_domain(path, domain, domains.classes)
        path.chmod(0o600)
