"""Worker processes that end with their parent, on Ctrl-C, on the first failure and on SIGKILL.

Those that pack are spawned, not forked: a fork would copy BLAS threads and locks in whatever state
they are. The price is about a second of imports for each. Each has one BLAS thread, so that results
do not depend on how many there are. Those of a DataLoader come from a fork server.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from data.errors import InputError

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
AHEAD = 3  # jobs for each worker that are handed out before earlier ones are done
RESUME = "Run the same command again: it continues with what is finished."
Job = TypeVar("Job")
Result = TypeVar("Result")


def in_workers(
    function: Callable[[Job], Result], todo: Iterable[Job], workers: int
) -> Iterator[tuple[Job, Result]]:
    """Run `function` on each of `todo` in spawned processes; yields (job, result) as they come.

    `function` and jobs must pickle; jobs are drawn from `todo` as workers become free. An exception
    of a job is raised here and ends all workers; InputError where a worker was killed.
    """
    jobs = iter(todo)
    first = list(islice(jobs, AHEAD * workers))
    if not first:
        return
    os.environ.update(ONE_THREAD)  # inherited by the workers, before they import NumPy
    os.environ.setdefault("MNE_LOGGING_LEVEL", "ERROR")
    pool = ProcessPoolExecutor(
        min(workers, len(first)), multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        waiting = {pool.submit(function, job): job for job in first}
        while waiting:
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                done = waiting.pop(future), future.result()
                for job in islice(jobs, 1):
                    waiting[pool.submit(function, job)] = job
                yield done
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed, perhaps for want of memory",
            f"use fewer --workers. {RESUME}",
        ) from None
    finally:
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent alone reacts and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_with_parent()


def leave_with_parent() -> None:
    """End this process with the one that started it. A parent killed outright cannot end its
    workers, and they would wait for work for ever."""
    threading.Thread(target=_leave, daemon=True).start()


def _leave() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def loader_context(workers: int, preload: str):
    """How a DataLoader is to start its workers: from a fork server that imported the module
    `preload`, which takes three seconds.

    A plain fork copies the locks that other threads hold at that moment. With gloo's threads one
    start in some hundreds hung for good (python/cpython#84559).
    """
    if not workers:
        return None
    _kill_at_exit()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", preload])  # imported once, not by each worker
    return context


@functools.cache
def _kill_at_exit() -> None:
    """Kill workers that outlive the main process's last line, where Python would wait for them.

    They are ended with their iterator; one that is still referred to then is never asked to, and
    workers shielded from a scheduler's signals cannot be terminated. Runs after torch's own attempt
    and before Python's wait, since exit functions run last in, first out.
    """
    atexit.register(_kill_children)


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()


def start_loader(worker: int) -> None:
    """What a worker of `loader_context` does first."""
    import torch  # packing's workers, which have most of this module, do without it

    # torch's own watch looks at the parent process, which is the fork server here.
    leave_with_parent()
    # Copying and mask drawing gain nothing from more; 8 ranks x workers x cores threads do harm.
    torch.set_num_threads(1)
