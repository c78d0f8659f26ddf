"""A site's SuperExec: ``python -m fedha.deploy.launcher``, with the options of ``flower-superexec``.

It starts nothing of an operator's: a task for a ClientApp gets `fedha.deploy.site_app`, and so does one for an agent,
which Flower would start from whatever bundle the run brings. Every other task is refused.
"""

from collections.abc import Mapping

from flwr.supercore.constant import TaskType

from fedha.deploy.executor import ForkingExecutor, run

SITE: Mapping[TaskType, str] = {TaskType.CLIENT_APP: "site", TaskType.AGENT_APP: "site"}


def executor() -> ForkingExecutor:
    """A site's."""
    return ForkingExecutor(SITE, others=False)


if __name__ == "__main__":
    run(executor)
