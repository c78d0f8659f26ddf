"""Who is connected and who is missing, since when, and what people call them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flwr.serverapp import Grid

from fedha.cohort import Member
from fedha.flower.delivery import is_simulation


@dataclass
class Attendance:
    """The nodes of one run, by what people call them.

    Attributes:
        sites: Names under which a deployment's nodes are registered, by client id; none in a simulation.
        domains: A simulation's source domains, by client id; none in a deployment, whose server does not know them.
        seen: When each site was last connected, in UTC; a site that is not among them never was.
        outside: Nodes that said they have no part in the run: nobody waits for them.
    """

    sites: Mapping[int, str] = field(default_factory=dict)
    domains: Mapping[int, str] = field(default_factory=dict)
    seen: dict[str, datetime] = field(default_factory=dict)
    outside: set[int] = field(default_factory=set)
    _names: dict[int, str] = field(default_factory=dict)  # by node
    _client_ids: dict[int, int] = field(default_factory=dict)

    def look(self, grid: Grid) -> list[int]:
        """The nodes that are connected, in ascending order; learns their names and places where the grid has them."""
        if (
            client_id_of := getattr(grid, "client_id_of", None)
        ) is not None:  # a grid of ours knows whose its nodes are
            nodes = sorted(grid.get_node_ids())
            self._client_ids = {node: client_id_of(node) for node in nodes}
            return nodes
        if not type(grid).__module__.startswith("flwr."):
            return sorted(grid.get_node_ids())
        found = list(grid.get_nodes())
        self._names |= {one.node_id: one.name for one in found if one.name}
        now = datetime.now(UTC)
        self.seen |= {one.name: now for one in found if one.name}
        if is_simulation(grid):  # a simulation registers its nodes in the order of their places
            inorder = sorted(found, key=lambda one: one.registered_at)
            self._client_ids = {one.node_id: client_id for client_id, one in enumerate(inorder)}
        return sorted(one.node_id for one in found)

    def learn_client_id(self, node: int, client_id: int) -> None:
        """Note the place that a node says it has, where the grid does not know it."""
        self._client_ids.setdefault(node, client_id)

    def call(self, node: int, member: Member | None) -> str:
        """What people call a node.

        Args:
            node: Flower's number.
            member: What it said of itself, if it has.
        """
        site = self._names.get(node)
        if member is not None:
            where = f" at {site}" if site not in (None, member.domain) else ""
            return f"client {member.client_id} (domain {member.domain!r}){where}"
        client_id = self._client_ids.get(node)
        if site or client_id is None:
            return f"site {site!r}" if site else f"a client that has not said who it is (Flower's node {node})"
        who = f"client {client_id}"
        return f"{who} (domain {self.domains[client_id]!r})" if client_id in self.domains else who

    def absent(self, nodes: Iterable[int]) -> list[str]:
        """The sites that are not among these nodes, in client order."""
        here = {self._names.get(node) for node in (*nodes, *self.outside)}
        return [name for _, name in sorted(self.sites.items()) if name not in here]

    def describe(self, nodes: list[int], wanted: int) -> str:
        """Who is connected, and who is missing since when: a sentence without its end.

        Args:
            nodes: Those that are connected.
            wanted: How many are needed.
        """
        here = [self._names.get(node, "") for node in nodes]
        count = f"{len(nodes)} of {wanted} clients are connected"
        names = f" ({', '.join(sorted(here))})" if all(here) and here else ""
        absent = "; ".join(self._since(name) for name in self.absent(nodes))
        return f"{count}{names}; waiting for {absent or 'the others'}"

    def _since(self, name: str) -> str:
        if name not in self.seen:
            return f"{name}, which was never connected"
        return f"{name}, which was last connected at {self.seen[name]:%Y-%m-%d %H:%M} UTC"
