"""Names that certificates, networks and folders all take."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedha.cli.deploy import spread
from fedha.deploy.certificates import issue, make_authority
from fedha.deploy.names import DEFAULT_CLIENTS, check_client, check_clients, check_host, with_port
from fedha.errors import FedhaError


@pytest.mark.parametrize("name", ["a", "north", "site-7", "x" * 40])
def test_labels_are_names_of_clients(name: str) -> None:
    assert check_client(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "North",
        "7up",
        "-a",
        "a-",
        "a b",
        "a.b",
        "a_b",
        "../a",
        "a/b",
        "a\n",
        "ä",
        "x" * 41,
        'a"',
        "$(id)",
        "north\x00",
    ],
)
def test_whatever_a_shell_a_path_or_dns_would_misread_is_no_name(name: str) -> None:
    with pytest.raises(FedhaError, match="a client cannot be called"):
        check_client(name)


def test_clients_are_named_and_each_once() -> None:
    assert check_clients(DEFAULT_CLIENTS) == DEFAULT_CLIENTS
    with pytest.raises(FedhaError, match="two clients would be called 'a'"):
        check_clients(["a", "b", "a"])
    with pytest.raises(FedhaError, match="at least one client"):
        check_clients([])


@pytest.mark.parametrize("host", ["fed.example.org", "server", "10.0.0.3", "::1", "xn--bcher-kva.example"])
def test_a_certificate_can_name_every_host_that_is_accepted(host: str) -> None:
    now = datetime.now(UTC)
    issue(make_authority(now), [check_host(host)], now, 1)


@pytest.mark.parametrize(
    "host", ["", "a b", "host:8443", "*.example.org", "https://a", "-a.org", "a..b", "ä.org", "a\n"]
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(FedhaError, match="is no host"):
        check_host(host)


def test_a_port_follows_a_bracketed_address_where_colons_would_mislead() -> None:
    assert with_port("::1", 8443) == "[::1]:8443"
    assert with_port("10.0.0.3", 8443) == "10.0.0.3:8443"
    assert with_port("fed.example.org", 443) == "fed.example.org:443"


_WORDS = st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=3), min_size=1, max_size=4)


@given(_WORDS, _WORDS)
def test_several_values_after_an_option_are_the_option_repeated(clients: list[str], hosts: list[str]) -> None:
    options = {"--clients", "--host"}
    repeated = [word for name in clients for word in ("--clients", name)]
    repeated += [word for name in hosts for word in ("--host", name)]
    for written in (
        ["--clients", *clients, "--host", *hosts],
        ["--clients", ",".join(clients), f"--host={','.join(hosts)}"],
        repeated,
    ):
        assert spread(["DIR", *written, "--port", "1"], options) == ["DIR", *repeated, "--port", "1"]
