"""The server's side of a secure sum: it collects, passes on, adds up what is masked, and takes the masks off the sum.

A client's vector is added as it comes, in any order (sums of integers are exact), and never kept: no line of this code
holds a single client's vector without its masks.
"""

from dataclasses import dataclass, field

import numpy as np

from fedha.errors import FedhaError
from fedha.privacy.secure.identity import Roster
from fedha.privacy.secure.keys import check_advert, check_distinct
from fedha.privacy.secure.layout import Words
from fedha.privacy.secure.messages import (
    Advert,
    Confirmation,
    Confirmations,
    Dealing,
    Inbox,
    KeyList,
    MaskedInput,
    Revealed,
    Survivors,
    masks_context,
    survivors_statement,
)
from fedha.privacy.secure.progress import Progress
from fedha.privacy.secure.session import Session
from fedha.privacy.secure.unmasking import MaskedSum, check_revealed, remove_masks


@dataclass
class Aggregation:
    """One secure sum at the server.

    Its methods are called in the order in which they stand here: each ``add_…`` for every message of its kind, then the
    ``close_…`` behind them. An ``add_…`` that refuses a message leaves everything as it was: the caller either stops,
    or goes on without that client.

    Attributes:
        session: As it was sent to the clients.
        roster: The clients' public identity keys, as far as the server knows: it leaves out early whom others would
            refuse. The clients do not rely on it.
    """

    session: Session
    roster: Roster
    _progress: Progress = field(init=False, repr=False)
    _adverts: dict[int, Advert] = field(default_factory=dict)
    _keys: KeyList = field(init=False, repr=False)
    _dealings: dict[int, Dealing] = field(default_factory=dict, repr=False)
    _context: bytes = field(init=False, repr=False)
    _words: Words = field(init=False, repr=False)
    _sum: MaskedSum = field(init=False, repr=False)
    _confirmations: dict[int, Confirmation] = field(default_factory=dict)
    _revealed: list[Revealed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._progress = Progress(self.session, self.session.cohort)

    @property
    def asked(self) -> tuple[int, ...]:
        """Who may answer in the step that is next, ascending."""
        return self._progress.asked

    def add_advert(self, advert: Advert) -> None:
        """Take a client's keys.

        Raises:
            FedhaError: They come late or twice, or as in `keys.check_advert` and `keys.check_distinct`.
        """
        self._progress.check(0, advert)
        check_advert(self.session, advert, self.roster)
        check_distinct(self.session, (*self._adverts.values(), advert))
        self._adverts[advert.client_id] = advert
        self._progress.heard.add(advert.client_id)

    def close_adverts(self) -> KeyList:
        """Everybody's keys, for all who sent theirs.

        Raises:
            FedhaError: Too few did.
        """
        heard = self._progress.close(0, self.session.quorum)
        self._keys = KeyList(self.session.digest, tuple(self._adverts[client_id] for client_id in heard))
        return self._keys

    def add_dealing(self, dealing: Dealing) -> None:
        """Take a client's boxes.

        Raises:
            FedhaError: They come late or twice, or are not one for each client that sent keys.
        """
        self._progress.check(1, dealing)
        wanted = [(dealing.client_id, other) for other in self._keys.by_client_id]
        if [(box.dealer, box.holder) for box in dealing.boxes] != wanted:
            raise FedhaError(
                f"client {dealing.client_id} does not deal to all others in {self.session.name}; leave it out"
            )
        self._dealings[dealing.client_id] = dealing
        self._progress.heard.add(dealing.client_id)

    def close_dealings(self, question: bytes) -> dict[int, Inbox]:
        """Each client's boxes, by client id.

        Args:
            question: What all of them are asked for now: `question.question`.

        Raises:
            FedhaError: Too few dealt.
        """
        dealers = self._progress.close(1, self.session.quorum)
        self._context = masks_context(self._keys.transcript, question)
        self._words = np.zeros(self.session.layout.words, self.session.layout.dtype)
        return {
            client_id: Inbox(
                self.session.digest,
                dealers,
                tuple(self._dealings[other].by_holder[client_id] for other in dealers if other != client_id),
            )
            for client_id in dealers
        }

    def add_masked(self, masked: MaskedInput) -> None:
        """Add a client's masked vector to the sum.

        Raises:
            FedhaError: It comes late or twice, or does not fit the layout.
        """
        self._progress.check(2, masked)
        if masked.words.shape != self._words.shape or masked.words.dtype != self._words.dtype:
            raise FedhaError(
                f"client {masked.client_id}'s vector of {masked.words.shape} {masked.words.dtype} is not what "
                f"{self.session.name} agreed on; see that it has the model of the others"
            )
        np.add(self._words, masked.words, out=self._words)
        self._progress.heard.add(masked.client_id)

    def close_masked(self) -> Survivors:
        """Whose vectors are in the sum.

        Raises:
            FedhaError: Too few are, or of too uneven weights.
        """
        survivors = self._progress.close(2, self.session.quorum)
        self.session.check_weights(survivors)
        self._sum = MaskedSum(self.session, self._keys, self._context, self._dealings, survivors)
        return Survivors(self.session.digest, survivors)

    def add_confirmation(self, confirmation: Confirmation) -> None:
        """Take a client's signature of the survivors.

        Raises:
            FedhaError: It comes late or twice, or is not the client's.
        """
        self._progress.check(3, confirmation)
        signed = survivors_statement(self._sum.context, self._sum.survivors)
        self.roster.verify(confirmation.client_id, signed, confirmation.signature, "the survivors and the question")
        self._confirmations[confirmation.client_id] = confirmation
        self._progress.heard.add(confirmation.client_id)

    def close_confirmations(self) -> Confirmations:
        """As many signatures as are needed, for all who confirmed.

        Raises:
            FedhaError: Too few did.
        """
        confirmed = self._progress.close(3, self.session.threshold)
        enough = confirmed[: self.session.threshold]
        return Confirmations(self.session.digest, tuple(self._confirmations[client_id] for client_id in enough))

    def add_revealed(self, revealed: Revealed) -> None:
        """Take a client's shares.

        Raises:
            FedhaError: They come late or twice, or one is missing, unasked or wrong.
        """
        self._progress.check(4, revealed)
        check_revealed(self._sum, revealed)
        self._revealed.append(revealed)
        self._progress.heard.add(revealed.client_id)

    def close_revealed(self) -> tuple[Words, tuple[int, ...]]:
        """The sum without masks, for `encoding.decode`, and whose it is.

        Raises:
            FedhaError: Too few shares of a client's secret, or they give another one than it advertised.
        """
        self._progress.close(4, self.session.threshold)
        remove_masks(self._sum, self._words, self._revealed)
        return self._words, self._sum.survivors
