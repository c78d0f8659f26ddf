"""What a container's health check runs: whether these addresses answer, under certificates that the federation signed.

It also stands alone, as a file in an image without fedha, so it imports Python's own modules only.
"""

import ssl
import sys
import urllib.request
from collections.abc import Sequence

AUTHORITY = "/run/secrets/ca.crt"
_SECONDS = 4.0


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


if __name__ == "__main__":
    try:
        check(sys.argv[1:])
    except OSError as error:
        sys.exit(f"not healthy: {error}")
