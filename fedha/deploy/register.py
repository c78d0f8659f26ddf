"""Which keys the SuperLink should know: those in the server's folder of public keys, and none that they replaced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedha.deploy.control import UNREGISTERED, Control, Node, public_key
from fedha.deploy.locations import Locations
from fedha.errors import FedhaError


@dataclass(frozen=True)
class Steps:
    """What is left to do.

    Attributes:
        add: Keys to register, by client.
        remove: Nodes to unregister.
        kept: Clients whose key is known.
    """

    add: Mapping[str, bytes]
    remove: Sequence[Node]
    kept: Sequence[str]


def steps(clients: Sequence[str], wanted: Mapping[str, bytes], known: Sequence[Node]) -> Steps:
    """What separates the keys that the SuperLink knows from those that it should.

    Args:
        clients: Names of all clients; nodes with other names are somebody else's business.
        wanted: Public keys by client; a client without one is not wanted any more.
        known: All nodes that were ever registered.

    Raises:
        FedhaError: A wanted key was unregistered before, which is for ever.
    """
    by_key = {node.key: node for node in known}
    for name, key in wanted.items():
        if key in by_key and by_key[key].status == UNREGISTERED:
            raise FedhaError(
                f"the key of client {name!r} was unregistered, and a SuperLink never takes a key twice; give the site "
                f"a new one with `fedha deploy rotate --client {name}`"
            )
    keys = set(wanted.values())
    remove = [node for node in known if node.status != UNREGISTERED and node.name in clients and node.key not in keys]
    add = {name: key for name, key in wanted.items() if key not in by_key}
    return Steps(add, remove, [name for name, key in wanted.items() if key in by_key])


def wanted_keys(place: Locations, clients: Sequence[str]) -> dict[str, bytes]:
    """The public keys of a server's folder, by client.

    Args:
        place: Where they are.
        clients: Names of all clients; one without a file is not wanted any more.

    Raises:
        FedhaError: One is no key, or there is none at all.
    """
    keys = {name: public_key(place.public_key(name)) for name in clients if place.public_key(name).exists()}
    if not keys:
        raise FedhaError(f"{place.public_keys} holds no client's public key; restore it from the folder that init made")
    return keys


def apply(todo: Steps, control: Control) -> list[str]:
    """Do it, former keys first.

    Returns:
        A line for each client.

    Raises:
        FedhaError: The SuperLink does not answer, or refuses.
    """
    lines = []
    for node in todo.remove:
        control.unregister(node.node_id)
        lines.append(f"{node.name}: former key refused from now on")
    for name, key in todo.add.items():
        lines.append(f"{name}: registered as node {control.register(name, key)}")
    return [*lines, *(f"{name}: known already" for name in todo.kept)]
