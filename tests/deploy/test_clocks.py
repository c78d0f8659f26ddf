"""A site whose clock is off is told so, in words that say how far and to which side."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now as flowers_now
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from starlette.datastructures import Headers

from fedha.deploy import clocks
from fedha.deploy.connection import refused
from fedha.deploy.superlink import signer

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def answer(status: int, *, ahead: float = 0.0, text: str = "") -> httpx.Response:
    """A server's, to a site whose clock is ahead of its own by so many seconds and shows NOW."""
    date = format_datetime(NOW - timedelta(seconds=ahead), usegmt=True)
    request = httpx.Request("POST", "https://proxy:8443/v1/fleet/activate-node")
    return httpx.Response(status, headers={"date": date}, text=text, request=request)


@pytest.mark.parametrize(
    ("ahead", "told"),
    [
        (-600, "10 minutes behind the server's"),
        (-301, "5 minutes behind the server's"),
        (7, "7 seconds ahead of the server's"),
        (90, "90 seconds ahead of the server's"),
        (3 * 3600, "3 hours ahead of the server's"),
        (-400 * 86400, "400 days behind the server's"),
    ],
)
def test_a_clock_that_is_off_is_the_reason_of_a_401(ahead: float, told: str) -> None:
    assert f"the clock of this machine is {told}" in refused(answer(401, ahead=ahead), NOW)


@pytest.mark.parametrize("ahead", [0, -299, 3])
def test_a_clock_that_the_server_takes_is_not_blamed(ahead: float) -> None:
    assert "does not know this site's key" in refused(answer(401, ahead=ahead), NOW)


@pytest.mark.parametrize("header", [None, "", "yesterday"])
def test_without_a_date_no_clock_is_blamed(header: str | None) -> None:
    assert clocks.ahead(header, NOW) is None


def test_what_else_the_server_says_is_passed_on() -> None:
    taken = answer(412, text='{"code": 2004, "detail": "Failed to activate SuperNode."}')
    assert "its key was not registered or was replaced" in refused(taken, NOW)
    assert refused(answer(413, text="too\n large"), NOW).endswith("/v1/fleet/activate-node with status 413: too large")


def signed(clock: timedelta) -> tuple[bytes, Headers]:
    """A key, and the headers with which a SuperNode signs whose clock is ahead by so much."""
    private, public = generate_key_pairs()
    request = httpx.Request("POST", "https://proxy")
    context = ProtobufRequestContext("", None, request)  # type: ignore[arg-type]
    NodeAuthHttpInterceptor(private, public).intercept(context, lambda one: httpx.Response(200))
    stamp = (flowers_now() + clock).isoformat()
    request.headers[TIMESTAMP_HEADER] = stamp
    request.headers[FLEET_HTTP_SIGNATURE_HEADER] = b64encode(sign_message(private, stamp.encode())).decode()
    return public_key_to_bytes(public), Headers(dict(request.headers))


@pytest.mark.parametrize("seconds", [-600.0, 0.0, 40.0])
def test_the_server_knows_whose_clock_is_off_by_the_signature(seconds: float) -> None:
    key, headers = signed(timedelta(seconds=seconds))
    found = signer(headers)
    assert found is not None
    assert found[0] == key
    assert found[1] == pytest.approx(seconds, abs=5)


def test_nobody_is_blamed_for_what_somebody_else_signed() -> None:
    _, headers = signed(timedelta(minutes=-10))
    other, _ = signed(timedelta())
    forged = {**headers, FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(other).decode()}
    assert signer(Headers(forged)) is None
    assert signer(Headers({})) is None
    assert signer(Headers({**headers, TIMESTAMP_HEADER: "noon"})) is None
