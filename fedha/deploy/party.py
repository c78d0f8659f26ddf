"""Who this site is in secure sums: its signing key, and the roster, as the site's own machine has them.

Nothing of it comes from the server. In the environment of the site's app:

- ``FEDHA_SIGNING_KEY``: the key's file; default: ``/run/secrets/signing.key``, where the containers have it;
- ``FEDHA_ROSTER``: the roster's file; default: ``/run/secrets/roster.json``. It must be signed by the authority whose
  certificate, ``ca.crt``, lies beside the key;
- ``FEDHA_MINIMUM``: the fewest clients that this site lets itself be summed with; default: 3;
- ``FEDHA_SECURE_ONLY``: if set, the site takes part in no run without secure sums.
"""

import os
from pathlib import Path

from fedha.config import Config
from fedha.deploy.signing import authority_of
from fedha.errors import FedhaError
from fedha.flower.secure_client import Party
from fedha.flower.secure_wire import settings_mark
from fedha.privacy.secure.delegation import read_roster, roster_of
from fedha.privacy.secure.identity import read_identity
from fedha.privacy.secure.session import MINIMUM

_SECRETS = Path("/run/secrets")


def site_party(config: Config, turns: Path) -> Party | None:
    """This site's; None where the config wants no secure sums and the site does not insist on them.

    Args:
        config: Of the run.
        turns: Where the site's tasks see whose turn it is.

    Raises:
        FedhaError: A file is missing or wrong, or the site insists and the config does not want.
    """
    if not config.privacy.secure_aggregation:
        if os.environ.get("FEDHA_SECURE_ONLY"):
            raise FedhaError(
                "this site answers in secure sums alone (FEDHA_SECURE_ONLY is set); set privacy.secure_aggregation to "
                "true"
            )
        return None
    key = _path("FEDHA_SIGNING_KEY", "signing.key")
    identity = read_identity(_read(key, "FEDHA_SIGNING_KEY"))
    authority = authority_of(_read(key.with_name("ca.crt"), "FEDHA_SIGNING_KEY, with that beside it"))
    path = _path("FEDHA_ROSTER", "roster.json")
    try:
        roster = roster_of(read_roster(_read(path, "FEDHA_ROSTER"), authority))
    except FedhaError as error:
        raise FedhaError(f"this site cannot believe {path.name}: {error}") from None
    public = config.privacy.protect == "examples"
    return Party(lambda place: identity, lambda cohort: roster, _minimum(), public, settings_mark(config), turns)


def _path(variable: str, usual: str) -> Path:
    return Path(os.environ.get(variable) or _SECRETS / usual)


def _read(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FedhaError(
            f"privacy.secure_aggregation is on and this site cannot read {path.name}: {error.strerror}; name it in "
            f"{variable} (a site from before secure sums gets one by `fedha deploy rotate --client NAME`)"
        ) from None


def _minimum() -> int:
    given = os.environ.get("FEDHA_MINIMUM") or str(MINIMUM)
    if not given.isdecimal() or int(given) < 2:
        raise FedhaError(f"this site's FEDHA_MINIMUM is {given!r}; give a number of clients, 2 or more")
    return int(given)
