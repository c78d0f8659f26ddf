"""Where the parts of a federation lie: in the folder that `fedha deploy init` made, or the server's part alone."""

from dataclasses import dataclass
from pathlib import Path

from fedha.deploy import inventory
from fedha.deploy.inventory import Inventory
from fedha.deploy.signing import FILE as ROSTER
from fedha.errors import FedhaError


@dataclass(frozen=True)
class Locations:
    """A federation's folders on this machine.

    Attributes:
        server: What the server's machine holds.
        init_folder: The folder around it, with the authority's key and the sites' folders; None on the server's
            machine.
    """

    server: Path
    init_folder: Path | None

    @property
    def record(self) -> Path:
        """The inventory's file."""
        return self.server / inventory.FILE

    @property
    def trusted(self) -> Path:
        """The authority's certificate."""
        return self.server / "secrets" / "ca.crt"

    @property
    def public_keys(self) -> Path:
        """The folder of the clients' public keys."""
        return self.server / "clients"

    def public_key(self, name: str) -> Path:
        """A client's public key."""
        return self.public_keys / f"{name}.pub"

    def inventory(self) -> Inventory:
        """Who is in the federation."""
        return inventory.read(self.record)


@dataclass(frozen=True)
class InitFolder:
    """The folder that `fedha deploy init` made.

    Attributes:
        folder: Holds everything.
    """

    folder: Path

    @property
    def server(self) -> Path:
        """What goes to the server's machine."""
        return self.folder / "server"

    @property
    def authority(self) -> tuple[Path, Path]:
        """The authority's certificate and key."""
        return self.folder / "ca" / "ca.crt", self.folder / "ca" / "ca.key"

    @property
    def roster(self) -> Path:
        """Who signs for which site in secure sums."""
        return self.folder / ROSTER

    def site(self, name: str) -> Path:
        """What goes to a site."""
        return self.folder / "clients" / name


def find(folder: Path) -> Locations:
    """The federation of a folder.

    Args:
        folder: What `fedha deploy init` made, or its part that the server's machine holds.

    Raises:
        FedhaError: It is neither.
    """
    if (folder / "server" / inventory.FILE).is_file():
        return Locations(folder / "server", folder)
    if (folder / inventory.FILE).is_file():
        return Locations(folder, None)
    raise FedhaError(
        f"{folder} holds no federation; make one with `fedha deploy init {folder}`, or name another folder"
    )


def find_init_folder(folder: Path) -> tuple[InitFolder, Locations]:
    """The folder with the authority's key, which new clients and certificates need.

    Raises:
        FedhaError: It is no such folder, or the server's part alone.
    """
    found = find(folder)
    if found.init_folder is None:
        raise FedhaError(
            f"{folder} is the server's part alone; go where `fedha deploy init` made the whole, with ca/ca.key"
        )
    return InitFolder(found.init_folder), found
