"""A trial of Ray: as many workers as a run will have, each asked once what and where it is."""

import os
import socket
from typing import Any

from fedha.engine.plan import count
from fedha.errors import FedhaError

_SECONDS = 120.0  # a loaded machine takes ten times as long as an idle one


def ask_workers(workers: int, cpu_share: float, gpu_share: float, threads: int) -> list[str]:
    """Start workers, hear from each, and end them. Ray must be started.

    Args:
        workers: How many at the same time.
        cpu_share: CPUs of each, in Ray's count.
        gpu_share: Its part of a GPU, in Ray's count.
        threads: Torch threads of each.

    Returns:
        A line for each: host, process, threads, device.

    Raises:
        FedhaError: They do not all answer; Ray may have less to give than they take.
        ClusterError: The cluster's head is gone.
    """
    import ray  # slow to import

    from fedha.engine.cluster import Head, fetch

    worker: Any = ray.remote(num_cpus=cpu_share, num_gpus=gpu_share)(_Trial)
    started = [worker.remote() for _ in range(workers)]
    try:
        asked = [one.answer.remote(threads) for one in started]
        answers: list[str] = fetch(asked, _SECONDS, Head(lambda text: None).look)
    except ray.exceptions.RayError as error:
        raise FedhaError(
            f"{workers} workers with {cpu_share:g} CPUs and {gpu_share:g} GPUs each did not all answer within "
            f"{_SECONDS:g} s: {' '.join(str(error).split())[:300]}; ask for fewer with engine.workers"
        ) from error
    finally:
        for one in started:
            ray.kill(one)
    return answers


class _Trial:
    """What a worker says of itself."""

    def answer(self, threads: int) -> str:
        import torch

        torch.set_num_threads(threads)
        device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
        many = torch.ones(256, 256, device="cuda" if torch.cuda.is_available() else "cpu")
        if float((many @ many)[0, 0]) != 256:
            raise ArithmeticError(f"a product on {device} is wrong")
        return f"{socket.gethostname()}, process {os.getpid()}, {count(torch.get_num_threads(), 'thread')}, {device}"
