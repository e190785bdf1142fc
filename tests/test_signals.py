"""Signals: which ask a run to stop, what a second does, and who does not inherit any of it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest

from fastdqn import signals
from fastdqn.signals import stop_on_signals


def heard(*numbers: int) -> bool:
    """Whether the watcher takes these signals for a request to stop."""
    reader, writer = os.pipe()
    asked = threading.Event()
    os.write(writer, bytes([*numbers, 0]))
    signals._watch(reader, asked, threading.Event())
    os.close(reader)
    os.close(writer)
    return asked.is_set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_asks_to_stop_is_heard(number):
    assert heard(number)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGALRM, signal.SIGCHLD])
def test_other_signals_with_handlers_of_the_users_own_ask_for_nothing(number):
    assert not heard(number)
    assert heard(number, signal.SIGTERM)


def test_a_signal_that_was_ignored_before_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_within_a_run_gives_the_outer_its_signals_back():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        with stop_on_signals():
            pass
        assert signal.getsignal(signal.SIGTERM) is signals._heard_elsewhere
    assert signal.getsignal(signal.SIGTERM) is before


def told_by_child(pipe) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    pipe.send((signals._heard_elsewhere in handlers, signal.set_wakeup_fd(-1)))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_meanwhile_has_neither_the_handlers_nor_the_pipe():
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    with stop_on_signals():
        child = fork.Process(target=told_by_child, args=(theirs,))
        child.start()
        assert ours.recv() == (False, -1)
        child.join()
        assert signal.getsignal(signal.SIGTERM) is signals._heard_elsewhere


WAITS = """
import multiprocessing, signal
from fastdqn import signals
signals._ECHO = {echo}
if {broken}:
    signals.multiprocessing.active_children = lambda: 1 / 0
with signals.stop_on_signals() as stop:
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    print(child.pid, flush=True)
    while not stop():
        pass
    print("asked", flush=True)
    child.join()
"""


@pytest.mark.parametrize("broken", [False, True])
def test_a_second_signal_ends_the_process_and_its_children_at_once(broken):
    code = WAITS.format(echo=0.0, broken=broken)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.terminate()
    assert process.stdout.readline() == "asked\n"
    process.terminate()
    try:
        assert process.wait(timeout=30) == 130
        if not broken:
            process.communicate(timeout=30)  # its end of file comes when the child is gone too
    finally:
        if broken:
            os.kill(child, signal.SIGKILL)
        process.communicate()
