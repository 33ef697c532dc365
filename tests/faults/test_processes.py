"""Threads and processes that use one compiled module."""

import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch.utils.data import DataLoader

from tests.faults.nets import CASES, WAYS, Features, banks, compiled, evaluated, loss_of

pytestmark = [
    pytest.mark.pure,
    # Python 3.12 says so of any fork beside threads, which torch has of its own.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


@pytest.mark.parametrize(("way", "kind"), CASES)
def test_the_first_evaluation_by_several_threads_at_once(way: str, kind: str) -> None:
    for _ in range(5):
        module = compiled(way, kind).eval()
        expected = evaluated(compiled(way, kind).eval())
        barrier = threading.Barrier(4)

        def run(_: int) -> torch.Tensor:
            barrier.wait()  # noqa: B023
            return evaluated(module)  # noqa: B023

        with ThreadPoolExecutor(4) as pool:
            assert all(torch.equal(found, expected) for found in pool.map(run, range(4)))


def test_a_thread_that_drops_the_cache_while_another_reads_it() -> None:
    """Between the moment where it is found to be right and that where its weights are taken."""
    module = compiled("fx").eval()
    (bank,) = banks(module)
    expected, dropped = evaluated(module), 0

    class Key:
        def __ne__(self, other: object) -> bool:
            nonlocal dropped
            dropped += 1
            bank.refresh()
            return False

    assert bank._cache is not None
    bank._cache = dataclasses.replace(bank._cache, key=Key())
    assert torch.equal(evaluated(module), expected)
    assert dropped == 1 and bank._cache is not None


@pytest.mark.parametrize(("way", "kind"), CASES)
def test_workers_that_are_forked_make_features(way: str, kind: str) -> None:
    module = compiled(way, kind)
    loss_of(module).backward()
    module.eval()
    _check_features(module, "fork")


def test_workers_that_are_spawned_make_features() -> None:
    """The module goes to them as a pickle; a graph of fx is what is hardest of it."""
    _check_features(compiled("fx").eval(), "spawn")


def _check_features(module: Any, how: str) -> None:
    expected = evaluated(module)
    loader = DataLoader(Features(module), 6, num_workers=2, multiprocessing_context=how)
    torch.testing.assert_close(torch.cat(list(loader)), expected)
    assert torch.equal(evaluated(module), expected)


def _answer(connection: Any, module: Any, edit: bool) -> None:
    torch.set_num_threads(1)
    if edit:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(2.0)
    connection.put(evaluated(module).numpy().tobytes())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("edit", [True, False])
def test_a_process_that_is_forked_after_a_forward_pass(way: str, edit: bool) -> None:
    """It has a copy, cache included; what it writes is its own."""
    module = compiled(way).eval()
    expected = evaluated(module)
    context = mp.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_answer, args=(answers, module, edit))
    process.start()
    found = answers.get(timeout=60)
    process.join(timeout=60)
    assert process.exitcode == 0
    assert (found == expected.numpy().tobytes()) is not edit
    assert torch.equal(evaluated(module), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_that_trains_after_os_fork() -> None:
    module = compiled("fx")
    expected = evaluated(module.eval())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            with torch.no_grad():
                banks(module)[0].theta.add_(1.0)
            code = int(torch.equal(evaluated(module), expected))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(evaluated(module), expected)


def _take_and_answer(modules: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    module = modules.get(timeout=60)
    answers.put(evaluated(module).numpy().tobytes())
    with torch.no_grad():
        banks(module)[0].theta.add_(1.0)
    answers.put(b"")


@pytest.mark.parametrize("way", WAYS)
def test_a_module_through_a_queue_shares_its_banks(way: str) -> None:
    """torch's queues send tensors as shared memory: what the other side writes is seen here."""
    module = compiled(way).eval()
    expected = evaluated(module)
    context = mp.get_context("fork")
    modules, answers = context.Queue(), context.Queue()
    process = context.Process(target=_take_and_answer, args=(modules, answers))
    process.start()
    modules.put(module)
    assert answers.get(timeout=60) == expected.numpy().tobytes()
    assert answers.get(timeout=60) == b""
    process.join(timeout=60)
    assert process.exitcode == 0
    module.eval()  # no counter is shared
    assert not torch.equal(evaluated(module), expected)
