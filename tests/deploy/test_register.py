"""Which keys a SuperLink should know: those of the folder, once, and none that they replaced."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedha.deploy import change, register
from fedha.deploy.control import UNREGISTERED, Node, public_key
from fedha.deploy.locations import find
from fedha.errors import FedhaError
from tests.deploy.federations import CLIENTS, MADE, US, make

KEYS = {name: name.encode() for name in CLIENTS}


def node(number: int, name: str, key: bytes, status: str = "online") -> Node:
    return Node(number, name, key, status)


def apply(todo: register.Steps, known: list[Node]) -> list[Node]:
    """What a SuperLink knows afterwards."""
    gone = {one.node_id for one in todo.remove}
    left = [Node(one.node_id, one.name, one.key, UNREGISTERED) if one.node_id in gone else one for one in known]
    return [*left, *(node(100 + place, name, key) for place, (name, key) in enumerate(todo.add.items()))]


_STATUS = st.sampled_from(["registered", "online", "offline", UNREGISTERED])
_NODES = st.lists(
    st.tuples(st.sampled_from([*CLIENTS, "stranger"]), st.sampled_from([b"old", b"older", b"other"]), _STATUS),
    unique_by=lambda one: one[1],
)


@given(_NODES, st.sets(st.sampled_from(CLIENTS)))
def test_afterwards_the_clients_have_the_folders_keys_and_no_others(
    former: list[tuple[str, bytes, str]], kept: set[str]
) -> None:
    known = [node(place, *one) for place, one in enumerate(former)]
    known += [node(50 + place, name, KEYS[name]) for place, name in enumerate(sorted(kept))]
    after = apply(register.steps(CLIENTS, KEYS, known), known)
    live = [one for one in after if one.status != UNREGISTERED]
    assert sorted((one.name, one.key) for one in live if one.name in CLIENTS) == sorted(KEYS.items())
    assert [one for one in live if one.name == "stranger"] == [
        one for one in known if one.name == "stranger" and one.status != UNREGISTERED
    ]
    again = register.steps(CLIENTS, KEYS, after)
    assert not again.add
    assert not again.remove


def test_a_client_without_a_key_file_is_refused_from_now_on() -> None:
    known = [node(place, name, key) for place, (name, key) in enumerate(KEYS.items())]
    wanted = {name: key for name, key in KEYS.items() if name != "south"}
    todo = register.steps(CLIENTS, wanted, known)
    assert [one.name for one in todo.remove] == ["south"]
    assert not todo.add


def test_a_removed_clients_key_is_refused_and_nobody_elses(tmp_path: Path) -> None:
    make(tmp_path / "fed")
    known = [node(place, name, key) for place, (name, key) in enumerate(register_keys(tmp_path / "fed").items())]
    change.remove_client(tmp_path / "fed", "south", MADE, US)
    record = find(tmp_path / "fed").inventory()
    todo = register.steps(record.all_names, register_keys(tmp_path / "fed"), known)
    assert ([one.name for one in todo.remove], dict(todo.add)) == (["south"], {})


def register_keys(folder: Path) -> dict[str, bytes]:
    place = find(folder)
    return register.wanted_keys(place, place.inventory().names)


def test_a_key_that_was_unregistered_cannot_come_back() -> None:
    with pytest.raises(FedhaError, match=r"key of client 'south' was unregistered.*rotate --client south"):
        register.steps(CLIENTS, KEYS, [node(1, "south", b"south", UNREGISTERED)])


def test_keys_are_read_as_the_superlink_keeps_them(tmp_path) -> None:
    make(tmp_path / "fed")
    place = find(tmp_path / "fed")
    wanted = register.wanted_keys(place, CLIENTS)
    assert list(wanted) == list(CLIENTS)
    assert all(key.startswith(b"-----BEGIN PUBLIC KEY-----\n") for key in wanted.values())
    place.public_key("south").unlink()
    assert list(register.wanted_keys(place, CLIENTS)) == ["north", "west"]
    place.public_key("north").write_bytes(b"ssh-rsa nothing")
    with pytest.raises(FedhaError, match="is no public key of a client"):
        public_key(place.public_key("north"))
    for path in place.public_keys.glob("*.pub"):
        path.unlink()
    with pytest.raises(FedhaError, match="holds no client's public key"):
        register.wanted_keys(place, CLIENTS)
