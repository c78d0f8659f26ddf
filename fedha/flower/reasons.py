"""What a client says went wrong, out of what Flower and Ray wrap around it."""

import re

from fedha.errors import ClientError, FedhaError

_OURS = re.compile(r"(^|\n|<class ')(fedha\.errors\.)?FedhaError(:|'>:)")


def failure(who: str, reason: str | None) -> FedhaError | ClientError:
    """The error that an error reply stands for.

    Args:
        who: Whose it is, and when, such as ``client 1 (domain 'b') failed to train in round 2``.
        reason: The reply's reason: a sentence or a traceback.

    Returns:
        A FedhaError where the client raised one, which the user can mend; else a ClientError with its traceback.
    """
    text = re.sub(r"\x1b\[[\d;]*m", "", reason or "").strip()
    sentence = f"{who}: {_plain(text or 'no reason given')}"
    return FedhaError(sentence) if _OURS.search(text) else ClientError(sentence, text if "\n" in text else "")


def _plain(text: str) -> str:
    """The client's own error in a reason, in one line.

    Flower writes ``<class 'KIND'>:<'MESSAGE'>``. In a simulation the message is Ray's trace, whose first cause ends
    with the client's error; a FedhaError needs no more than its sentence.
    """
    if wrapped := re.fullmatch(r"<class '([^']*)'>:<'(.*)'>", text, re.DOTALL):
        kind, message = wrapped.groups()
        cause, chained, _ = message.strip().partition("\n\nThe above exception was the direct cause")
        text = cause.splitlines()[-1] if chained else f"{kind}: {(message.strip().splitlines() or [''])[0]}"
    return re.sub(r"^(\w+\.)+(?=\w+: )", "", text.splitlines()[-1].strip()).removeprefix("FedhaError: ")
