"""Clients are called by what people know them by: who is there, who is missing, since when."""

import re
from datetime import UTC, datetime

import pytest
from flwr.server.superlink.fleet.vce.vce_api import _register_nodes
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

from fedha.cohort import Member
from fedha.flower.attendance import Attendance

SEEN = {"west": datetime(2026, 3, 1, 9, 5, tzinfo=UTC)}
SITES = {0: "north", 1: "south", 2: "west"}


def link_states() -> LinkStateFactory:
    return LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())


def flower_grid(factory: LinkStateFactory) -> InMemoryGrid:
    """Flower's own grid over a link state without nodes."""
    grid = InMemoryGrid(factory)
    state = factory.state()
    grid.get_node_ids = lambda: {node.node_id for node in state.get_node_info(statuses=["online"])}  # type: ignore[method-assign]
    return grid


def register(grid: InMemoryGrid, name: str) -> int:
    """A site's node, registered under its name and connected."""
    node = int(grid.state.create_node("", "", name.encode(), 1e6, name=name))
    grid.state.acknowledge_node_heartbeat(node, 1e6)
    return node


def test_flowers_simulation_gives_its_nodes_places_in_the_order_of_their_registration() -> None:
    factory = link_states()
    grid = flower_grid(factory)
    places = _register_nodes(12, factory)
    attendance = Attendance(domains={place: f"d{place}" for place in range(12)})
    attendance.look(grid)
    assert {node: attendance.call(node, None) for node in places} == {
        node: f"client {place} (domain 'd{place}')" for node, place in places.items()
    }


def test_who_is_there_and_who_is_missing_is_told_by_name_and_since_when() -> None:
    grid, attendance = flower_grid(link_states()), Attendance(SITES, seen=dict(SEEN))
    north = register(grid, "north")
    nodes = attendance.look(grid)
    assert attendance.describe(nodes, 3) == (
        "1 of 3 clients are connected (north); waiting for south, which was never connected; west, which was last "
        "connected at 2026-03-01 09:05 UTC"
    )
    grid.state.deactivate_node(north)
    before = datetime.now(UTC)
    told = attendance.describe(attendance.look(grid), 3)
    found = re.search(r"0 of 3 clients are connected; waiting for north, which was last connected at (.*?) UTC", told)
    assert found is not None, told
    assert abs((datetime.fromisoformat(found[1] + "+00:00") - before).total_seconds()) < 120
    assert attendance.absent([]) == list(SITES.values())


def test_a_site_that_has_no_part_in_the_run_is_not_missing() -> None:
    grid, attendance = flower_grid(link_states()), Attendance(SITES)
    south = register(grid, "south")
    attendance.look(grid)
    attendance.outside.add(south)
    assert attendance.absent([]) == [name for name in SITES.values() if name != "south"]


@pytest.mark.parametrize("domain", ["north", "photo"])
def test_a_site_is_called_by_its_name_and_its_domain(domain: str) -> None:
    grid, attendance = flower_grid(link_states()), Attendance(SITES)
    node = register(grid, "north")
    attendance.look(grid)
    assert attendance.call(node, None) == "site 'north'"
    where = "" if domain == "north" else " at north"
    assert attendance.call(node, Member(0, domain, 5)) == f"client 0 (domain {domain!r}){where}"


def test_a_node_of_which_nothing_is_known_says_what_it_is() -> None:
    assert Attendance().call(77, None) == "a client that has not said who it is (Flower's node 77)"
    assert Attendance().describe([5], 3) == "1 of 3 clients are connected; waiting for the others"
