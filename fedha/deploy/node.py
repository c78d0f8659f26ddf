"""A site's SuperNode that never gives up: ``python -m fedha.deploy.node``, with the options of ``flower-supernode``.

One option is ours: ``--connected=FILE``, whose time is that of the server's last good answer (`fedha.deploy.healthy`).
"""

import sys

from fedha.deploy.supervisor import keep


def _say(text: str) -> None:
    sys.stderr.write(f"fedha: the SuperNode: {text}\n")


if __name__ == "__main__":
    sys.exit(keep([sys.executable, "-m", "fedha.deploy.connection", *sys.argv[1:]], _say))
