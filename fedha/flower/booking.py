"""What a run has released, in a file of its folder: entered before it is asked for, taken up when a run goes on."""

from collections.abc import Sequence

from fedha.cohort import Member
from fedha.federation import Server
from fedha.flower import budget
from fedha.flower.job import Job
from fedha.privacy.spending import read_spending
from fedha.runs import own_files, runfolder


def take_up(job: Job, server: Server, members: Sequence[Member], done: int, *, resume: bool) -> str:
    """Take up what was released before; why training has ended already, or "".

    Raises:
        FedhaError: Not even one round fits the budget.
    """
    path = job.folder / runfolder.SPENDING
    server.members = list(members)
    if resume and path.exists():  # rounds after the checkpoint were released too, with noise that nobody can draw again
        server.spending = read_spending(path)
    if not done:
        budget.check_first(server, members)
        return ""
    return budget.ends_before(server, done + 1, members) if done < job.config.training.rounds else ""


def enter(job: Job, server: Server, round: int, members: Sequence[Member]) -> None:
    """Write what a round is about to release, where its noise is never the same again."""
    noise = {server.site.randomness} if server.task.privacy.protect == "clients" else {one.noise for one in members}
    if server.task.privacy.protect == "nothing" or "cryptographic" not in noise:
        return
    after = budget.after_round(server, round, members)
    own_files.write_json(job.folder, runfolder.SPENDING, after.state())


def enter_again(job: Job, server: Server, kind: str, client_id: int) -> None:
    """Count what a client that is asked once more releases once more, before it is asked."""
    before = server.spending
    server.spending = before.again(server.task, kind, client_id, server.members)
    if server.spending is not before:
        own_files.write_json(job.folder, runfolder.SPENDING, server.spending.state())
