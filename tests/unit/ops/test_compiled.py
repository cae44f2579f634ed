"""Compiled loops: every task done once, whatever the number of threads, and errors on them told."""

import threading

import numpy as np
import pytest
import torch

from jogak.ops import _compiled, _threads
from jogak.ops._compiled import GRAIN, Kernel


def _count(first, last, done, step):
    for i in range(first, last):
        done[i] += step


def _fail(first, last, done):
    if last > 2:
        raise ValueError("a loop's own error")
    done[first] = 1


COUNT = Kernel(_count)


@pytest.fixture(params=["OpenMP", "pool"])
def kernel(request, monkeypatch):
    """Spread over the threads of torch's library, and of Python's pool where that is another."""
    if request.param == "OpenMP":
        assert _threads.found() or not list((_threads.Path(torch.__file__).parent / "lib").glob("libgomp*"))
        return COUNT
    other = Kernel(_count)
    monkeypatch.setattr(_threads, "found", lambda: False)
    assert other.spread is None
    return other


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("tasks", [0, 1, 2, 5, 64])
def test_every_task_is_done_once(kernel, threads, count, tasks):
    threads(count)
    done = np.zeros(64, np.int64)
    kernel(tasks, done, 3)
    assert done.tolist() == [3] * tasks + [0] * (64 - tasks)


def test_little_work_stays_on_this_thread(kernel, threads, monkeypatch):
    threads(2)
    monkeypatch.setitem(vars(kernel), "spread", lambda *_: pytest.fail("spread"))
    monkeypatch.setattr(_compiled, "_pool", lambda *_: pytest.fail("spread"))
    done = np.zeros(64, np.int64)
    kernel(64, done, 1, work=2 * GRAIN - 1)
    assert done.all()


def test_threads_of_python_may_call_at_once(kernel, threads):
    threads(2)
    results = [np.zeros(64, np.int64) for _ in range(8)]
    callers = [
        threading.Thread(target=lambda done: [kernel(64, done, 1) for _ in range(50)], args=(r,)) for r in results
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all((r == 50).all() for r in results)


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_a_loop_is_not_lost(threads, count):
    threads(count)
    with pytest.raises((ValueError, MemoryError)):
        Kernel(_fail)(4, np.zeros(4))
