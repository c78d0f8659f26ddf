"""What a client's memory is made of, so that no sum lays one client's memory open.

What a client keeps of a round (moving averages, what rules have it keep) enters later sums. A cheating server could
have one client alone keep something, and then sum it with others who keep nothing: the sum would be that client's. So
every client signs, with its keys, which sums its memory is of. It uses its memory in a sum only where as many as hide
it there remember the same; else it forgets, and begins anew beside the others.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedha.privacy.secure.packing import digest


@dataclass(frozen=True)
class Past:
    """Whose sums a client remembers.

    Attributes:
        chain: Digest of every sum since the run's beginning that moved its memory: what was asked, and who survived.
            Empty before the first.
        since: The round in which its own memory began: of what is earlier in the chain it keeps nothing.
    """

    chain: bytes = b""
    since: int = 0

    def after(self, question: bytes, survivors: Sequence[int]) -> "Past":
        """With one more sum, which all of the survivors were asked alike for."""
        return replace(self, chain=digest("past", self.chain, question, *survivors))


def companions(own: Past, pasts: Mapping[int, Past]) -> tuple[int, ...]:
    """The clients that remember all that this one does, ascending; nobody where it cannot say what it remembers.

    Args:
        own: The client's.
        pasts: Everybody's, its own among them, by client id.
    """
    if not own.chain:
        return ()
    same = [one for one, past in pasts.items() if past.chain == own.chain and past.since <= own.since]
    return tuple(sorted(same))


def anew(round: int, pasts: Mapping[int, Past]) -> Past:
    """The past of a client that remembers nothing: from now on it goes along with most of the others.

    Args:
        round: In which its memory begins.
        pasts: Everybody's, by client id.
    """
    known = Counter(past.chain for past in pasts.values())
    return Past(max(known, key=lambda chain: (known[chain], chain), default=b""), round)
