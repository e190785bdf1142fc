"""The fused update on two threads: results do not depend on threads, and the thread ends."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportAttributeAccessIssue=false

import gc
import multiprocessing
import os
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdqn.builders.auto_options import threads_of_torch
from fastdqn.config.schema import Config
from fastdqn.learning import fused_kernel, fused_second_thread
from fastdqn.learning.fused_kernel_two_threads import (
    ASLEEP,
    AWAY,
    CLAIMED,
    HERE,
    LENT,
    STATE,
    WANTED,
)
from fastdqn.learning.fused_learner import FusedStep
from fastdqn.system.cpu_limits import usable_cores
from fastdqn.system.idle_thread import HAS_SPARE
from helpers.capture import FACTS
from helpers.fused import make_batches, make_learner
from helpers.fused_pair import TWO, run_start, trained
from helpers.setups import resolved


def no_thread(work, *args):
    return None


def assert_equal_bits(first, second):
    (one, priorities), (other, expected) = first, second
    assert torch.equal(priorities, expected)
    for name, value in one._tensors().items():
        np.testing.assert_array_equal(other._tensors()[name], value)


def words_of(learner):
    return learner._step._second.shared[0]


@pytest.mark.parametrize("size", [1, 31, 32, 33, 63, 64, 65, 96, 100, 128, 160])
def test_two_threads_agree_with_one(size):
    one, expected = trained(FusedStep, size, updates=30)
    two, priorities = trained(TWO, size, updates=30)
    torch.testing.assert_close(priorities, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(two.online.weights, one.online.weights, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(two.loss_sum, one.loss_sum, rtol=1e-5, atol=1e-6)
    if size <= fused_kernel.BLOCK:  # 16 or 32, by the machine's vectors: there is no second half
        assert_equal_bits((one, expected), (two, priorities))


@pytest.mark.parametrize("start", [run_start, fused_second_thread.start_spare, no_thread])
def test_results_do_not_depend_on_the_computing_thread(start, monkeypatch):
    monkeypatch.setattr(fused_second_thread, "start_spare", no_thread)
    alone = trained(TWO, updates=1000)
    monkeypatch.setattr(fused_second_thread, "start_spare", start)
    assert_equal_bits(trained(TWO, updates=1000), alone)


def lent_share(learner, batch, updates=2000):
    words, lent = words_of(learner), 0
    for _ in range(updates):
        learner.update(batch)
        lent += words[LENT] == words[WANTED]
    return lent / updates


@pytest.mark.slow
@pytest.mark.skipif(usable_cores() < 2, reason="there is no core for a second thread")
def test_a_second_thread_computes_its_half(monkeypatch):
    monkeypatch.setattr(fused_second_thread, "start_spare", run_start)
    learner = make_learner(TWO, hidden=(120, 84))
    (batch,) = make_batches(1, size=512)
    learner.update(batch)
    learner.update(batch)
    assert any(lent_share(learner, batch) > 0 for _ in range(20))


@pytest.mark.parametrize("state", [HERE, ASLEEP, AWAY])
def test_an_ended_second_thread_is_not_waited_for(state, monkeypatch):
    def say(learner, i):
        if i > 0:
            words_of(learner)[STATE] = state

    monkeypatch.setattr(fused_second_thread, "start_spare", no_thread)
    assert_equal_bits(trained(TWO, before=say), trained(TWO))


def test_an_overdue_half_is_computed_by_the_first_thread(monkeypatch):
    """As by a thread that the system stopped in the middle: its claim is put there beforehand."""

    def claim(learner, i):
        if i > 0:
            words = words_of(learner)
            words[STATE], words[CLAIMED] = HERE, words[WANTED] + 1

    monkeypatch.setattr(fused_second_thread, "start_spare", no_thread)
    assert_equal_bits(trained(TWO, before=claim), trained(TWO))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_stored_observations_and_masks_reach_the_second_thread(dtype, monkeypatch):
    def path(make_step, start):
        monkeypatch.setattr(fused_second_thread, "start_spare", start)
        batches = {"shape": (3, 5), "dtype": dtype, "masks": True}
        return trained(make_step, 100, 300, batches=batches, inputs=15, scale=1 / 255)

    two, one = path(TWO, run_start), path(FusedStep, no_thread)
    assert_equal_bits(two, path(TWO, no_thread))
    torch.testing.assert_close(two[1][:20], one[1][:20], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_changes_in_place_reach_the_second_thread(monkeypatch):
    def path(start):
        monkeypatch.setattr(fused_second_thread, "start_spare", start)
        learner = make_learner(TWO)
        (batch,) = make_batches(1, size=128)
        for _ in range(200):
            learner.update(batch)
            learner.online.weights.mul_(0.999)
            learner.target.weights.add_(0.001)
        return learner.online.weights

    assert torch.equal(path(run_start), path(no_thread))


@pytest.mark.slow
def test_a_new_batch_each_time_needs_no_thread(monkeypatch):
    started = []
    monkeypatch.setattr(
        fused_second_thread, "start_spare", lambda *a: started.append(run_start(*a))
    )
    learner = make_learner(TWO)
    batches = list(make_batches(20, size=96))
    for batch in batches:
        learner.update(batch)
    assert started == []
    learner.update(batches[-1])  # the same one again: now a loop is under way
    assert len(started) == 1


@pytest.mark.slow
def test_two_learners_side_by_side_do_not_mix(monkeypatch):
    monkeypatch.setattr(fused_second_thread, "start_spare", run_start)
    (batch,) = make_batches(1, size=96)
    first, second, third = (make_learner(TWO) for _ in range(3))
    for _ in range(300):
        first.update(batch)
        second.update(batch)
    for _ in range(300):
        third.update(batch)
    assert torch.equal(first.online.weights, third.online.weights)
    assert torch.equal(second.online.weights, third.online.weights)


@pytest.mark.slow
def test_the_thread_and_the_weights_are_freed_with_the_learner(monkeypatch):
    started = []
    monkeypatch.setattr(
        fused_second_thread, "start_spare", lambda *a: started.append(run_start(*a))
    )
    learner, _ = trained(TWO)
    weights = weakref.ref(learner.online.weights)
    del learner
    gc.collect()
    (thread,) = started
    thread.join(60)
    assert not thread.is_alive()
    started.clear()
    del thread
    gc.collect()
    assert weights() is None


PROGRAM = """
import sys; sys.path.insert(0, {tests!r})
from helpers.fused_pair import TWO, trained
kept, _ = trained(TWO)
print(float(kept.online.weights.double().sum()).hex())
"""


@pytest.mark.slow
def test_a_process_with_a_second_thread_ends():
    learner, _ = trained(TWO)
    program = PROGRAM.format(tests=str(Path(__file__).parents[1]))
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    expected = float(learner.online.weights.double().sum()).hex()
    assert (ended.stdout, ended.stderr, ended.returncode) == (f"{expected}\n", "", 0)


def test_a_forked_process_continues_without_the_thread():
    staged, *_ = make_batches(1, size=96)
    learner = make_learner(TWO)
    for _ in range(50):
        learner.update(staged)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork where there are threads
        child = os.fork()
    if child == 0:
        try:
            for _ in range(50):
                learner.update(staged)
            sender.send_bytes(learner.online.weights.numpy().tobytes())
        finally:
            os._exit(0)
    assert receiver.poll(60)
    theirs = np.frombuffer(receiver.recv_bytes(), np.float32)
    os.waitpid(child, 0)
    for _ in range(50):
        learner.update(staged)
    np.testing.assert_array_equal(learner.online.weights.numpy(), theirs)


@pytest.mark.parametrize(
    ("changes", "cores", "threads"),
    [
        ({}, 2, 2),
        ({}, 1, 1),
        ({"batch_size": 64}, 2, 1),
        ({"tau": 0.01}, 2, 1),
        ({"learner": "torch"}, 2, 1),
        ({"learner": "torch", "threads": 3}, 2, 3),
        ({"threads": 1}, 2, 1),
        ({"threads": 2}, 1, 2),
        ({"threads": 8}, 8, 2),
        ({"value": "categorical"}, 2, 1),
        ({"noisy": True, "threads": 2}, 2, 1),
        ({"munchausen": True, "threads": 2}, 2, 1),
        ({"normalize_observation": True, "threads": 2}, 2, 1),
        ({"normalize_reward": True, "double": False, "loss": "huber"}, 2, 2),
    ],
)
@pytest.mark.parametrize("how", ["native", "async"])
def test_the_number_of_threads_is_a_function_of_options_and_cores(
    changes, cores, threads, how, monkeypatch
):
    monkeypatch.setattr("fastdqn.builders.auto_options.usable_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    config = resolved(Config().replace(**{"device": "cpu"} | changes), FACTS, how, weights=1000)
    free = how == "native" or "threads" in changes
    assert config.threads == (threads if free and (HAS_SPARE or threads > 2) else 1)
    assert threads_of_torch(config) == (1 if config.learner == "fused" else config.threads)
    assert resolved(config, FACTS, how, weights=1000).threads == config.threads


@pytest.mark.parametrize(("weights", "options"), [(1000, {}), (10**8, {"learner": "torch"})])
def test_omp_num_threads_is_the_limit_unless_threads_is_set(monkeypatch, weights, options):
    monkeypatch.setattr("fastdqn.builders.auto_options.usable_cores", lambda: 8)
    config = Config(device="cpu", **options)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert resolved(config, FACTS, "native", weights=weights).threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert resolved(config, FACTS, "native", weights=10**8).threads == 3
    assert resolved(config.replace(threads=2), FACTS, "native", weights=10**8).threads == 2
