"""Starts nginx with the name server of this container's network, which finds the SuperLink also after it started again.

It stands alone in an image without fedha, so it imports Python's own modules only.
"""

import os
from collections.abc import Mapping
from pathlib import Path

DEFAULTS = {
    "FOLDER": "/tmp/nginx",
    "LISTEN": "8443",
    "RESOLVER": "",
    "SECRETS": "/run/secrets",
    "SUPERLINK": "superlink:8000",
}


def configuration(template: str, settings: Mapping[str, str]) -> str:
    """The template with a setting in the place of each ``@NAME@``.

    Args:
        template: nginx.conf.
        settings: Values by name.
    """
    for name, value in settings.items():
        template = template.replace(f"@{name}@", value)
    return template


def resolver(resolv: str) -> str:
    """The first name server of a resolv.conf, as nginx writes addresses.

    Args:
        resolv: The file's content.

    Raises:
        SystemExit: It names none.
    """
    for line in resolv.splitlines():
        word, _, address = line.partition(" ")
        if word == "nameserver":
            address = address.split()[0]
            return f"[{address}]" if ":" in address else address
    raise SystemExit("/etc/resolv.conf names no name server; set RESOLVER to its address")


def main() -> None:
    """Write the configuration, and become nginx."""
    settings = {name: os.environ.get(name) or value for name, value in DEFAULTS.items()}
    settings["RESOLVER"] = settings["RESOLVER"] or resolver(Path("/etc/resolv.conf").read_text(encoding="utf-8"))
    folder = Path(settings["FOLDER"])
    folder.mkdir(parents=True, exist_ok=True)
    template = Path(__file__).with_name("nginx.conf").read_text(encoding="utf-8")
    (folder / "nginx.conf").write_text(configuration(template, settings), encoding="utf-8")
    os.execvp("nginx", ["nginx", "-e", "stderr", "-c", str(folder / "nginx.conf"), "-g", "daemon off;"])


if __name__ == "__main__":
    main()
