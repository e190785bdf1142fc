"""Atomics: communication of two threads inside kernels."""

import threading

import numpy as np
import pytest
import torch

from fastdqn.kernels.atomics import (
    compare_exchange,
    copy_apart,
    finish_copies,
    load_acquire,
    make_semaphore,
    pause,
    post_semaphore,
    store_release,
    wait_semaphore,
)
from fastdqn.kernels.jit import kernel

TURNS = 20_000


@kernel
def add_by_exchange(words, times):
    for _ in range(times):
        while True:
            seen = load_acquire(words, 8)
            if compare_exchange(words, 8, seen, seen + 1):
                break
            pause()


@kernel
def exchange(words, expected, value):
    return compare_exchange(words, 0, expected, value)


@kernel
def put(words, place, value):
    store_release(words, place, value)
    return load_acquire(words, place)


@kernel
def copy(to, source):
    for first in range(0, len(to), 16):
        copy_apart(to, source, first)
    finish_copies()


@kernel
def answer(words, calls, answers, mine, other, turns):
    """Waits for each call, checks the other thread's numbers, and replies."""
    wrong = 0
    for turn in range(turns):
        wait_semaphore(words, calls)
        for i in range(len(other)):
            wrong += other[i] != turn
        own = np.full(16, turn, np.float32)
        for first in range(0, len(mine), 16):
            copy_apart(mine[first:], own, 0)
        finish_copies()
        post_semaphore(words, answers)
    return wrong


@kernel
def call(words, calls, answers, mine, other, turns):
    wrong = 0
    for turn in range(turns):
        own = np.full(16, turn, np.float32)
        for first in range(0, len(mine), 16):
            copy_apart(mine[first:], own, 0)
        finish_copies()
        post_semaphore(words, calls)
        wait_semaphore(words, answers)
        for i in range(len(other)):
            wrong += other[i] != turn
    return wrong


@kernel
def make(words, place):
    return make_semaphore(words, place)


def test_an_exchange_needs_the_expected_value():
    words = np.zeros(1, np.int64)
    assert exchange(words, 0, -5)
    assert not exchange(words, 0, 7)
    assert words[0] == -5


def test_a_word_is_written_at_its_index():
    words = np.arange(4)
    assert put(words, 2, -1) == -1
    np.testing.assert_array_equal(words, [0, 1, -1, 3])


def test_two_threads_lose_no_exchange():
    words = np.zeros(16, np.int64)
    others = [threading.Thread(target=add_by_exchange, args=(words, TURNS)) for _ in range(2)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    assert words[8] == 2 * TURNS


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_a_copy_may_come_from_anywhere(offset):
    to = torch.zeros(64).numpy()
    source = np.arange(64 + offset, dtype=np.float32)[offset:]
    copy(to, source)
    np.testing.assert_array_equal(to, source)


@pytest.mark.slow
def test_a_semaphore_makes_earlier_copies_visible():
    words = np.zeros(16, np.int64)
    assert [make(words, place) for place in (0, 8)] == [0, 0]
    mine, other = torch.zeros(2, 1024).numpy()
    wrong = []
    thread = threading.Thread(
        target=lambda: wrong.append(answer(words, 0, 8, mine, other, 500)), daemon=True
    )
    thread.start()
    wrong.append(call(words, 0, 8, other, mine, 500))
    thread.join()
    assert wrong == [0, 0]
