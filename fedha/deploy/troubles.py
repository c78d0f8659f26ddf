"""What is wrong at a federation's server right now, in sentences: the SuperLink keeps them, the operator asks."""

import json
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PATH = "/fedha/troubles"  # on the SuperLink, whose door passes none of it to the sites
_LASTING_SECONDS = 150.0  # a node that is refused comes back within a minute and its start
_ANSWER_SECONDS = 5.0


@dataclass
class Troubles:
    """What went wrong of late, by what it is about.

    Attributes:
        say: Told of each sentence that is new.
        now: A clock, in seconds.
    """

    say: Callable[[str], None]
    now: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[float, str]] = field(default_factory=dict)

    def note(self, about: str, sentence: str) -> None:
        """Something is wrong, again or for the first time."""
        fresh = about not in self._seen or self._seen[about][0] < self.now() - _LASTING_SECONDS
        self._seen[about] = (self.now(), sentence)
        if fresh:
            self.say(sentence)

    def over(self, about: str) -> None:
        """It is right again."""
        self._seen.pop(about, None)

    def lasting(self) -> list[str]:
        """The sentences of the last minutes, by what they are about."""
        since = self.now() - _LASTING_SECONDS
        return [sentence for _, (when, sentence) in sorted(self._seen.items()) if when >= since]


def ask(address: str, trusted: Path) -> list[str]:
    """What a SuperLink says is wrong; nothing where it does not answer or is not one of ours.

    Args:
        address: ``host:port``.
        trusted: The authority's certificate.
    """
    context = ssl.create_default_context(cafile=str(trusted))
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with direct.open(f"https://{address}{PATH}", timeout=_ANSWER_SECONDS) as answer:
            told = json.loads(answer.read())
    except (OSError, ValueError):
        return []
    return [str(one) for one in told] if isinstance(told, list) else []
