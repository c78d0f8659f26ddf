"""What a container's health check runs: whether these addresses answer, under certificates that the federation signed.

``--connected=FILE`` is for a SuperNode: whether the server has answered it within the last minutes. Only its own
connection tells, for it may lead through a proxy, and somebody else may answer at the server's address.

It also stands alone, as a file in an image without fedha, so it imports Python's own modules only.
"""

import ssl
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

AUTHORITY = "/run/secrets/ca.crt"
CONNECTED = "--connected="
_SECONDS = 4.0
_LONGEST = 180.0  # a SuperNode asks for work every 3 s, and sends a sign of life every 20 s while it works


def check(urls: Sequence[str], authority: str = AUTHORITY) -> None:
    """Ask every address.

    Args:
        urls: All of them HTTPS.
        authority: The file with the certificate that vouches for them.

    Raises:
        OSError: One does not answer, answers with an error, or under another authority's certificate.
    """
    context = ssl.create_default_context(cafile=authority)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    for url in urls:
        with direct.open(url, timeout=_SECONDS) as answer:
            answer.read()


def check_connected(file: Path, now: float) -> None:
    """Look when the server last answered a SuperNode.

    Args:
        file: Which `fedha.deploy.node` touches with each good answer.
        now: The time, in seconds since the epoch.

    Raises:
        OSError: It has not yet, or not within the last three minutes.
    """
    try:
        silent = now - file.stat().st_mtime
    except FileNotFoundError:
        raise OSError("the server has not answered this node yet; its log says why") from None
    if silent > _LONGEST:
        raise OSError(f"the server last answered this node {silent / 60:.0f} minutes ago; its log says why")


def main(words: Sequence[str]) -> None:
    """Check what a command line names: addresses, and files after ``--connected=``."""
    for word in words:
        if word.startswith(CONNECTED):
            check_connected(Path(word.removeprefix(CONNECTED)), time.time())
    if urls := [word for word in words if not word.startswith(CONNECTED)]:
        check(urls)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"not healthy: {error}")
