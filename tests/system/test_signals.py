"""Signals: stop requests, a second signal, and what child processes inherit."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest

import fastdqn
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.system import signals
from fastdqn.system.signals import Requests, listen
from helpers.loop import small


def heard(*numbers: int) -> Requests:
    """Returns what the watcher makes of these signals."""
    reader, writer = os.pipe()
    requests = Requests()
    os.write(writer, bytes([*numbers, 0]))
    signals._watch(reader, requests, threading.Event())
    os.close(reader)
    os.close(writer)
    return requests


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_asks_to_stop_is_heard(number):
    assert heard(number).stop()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGALRM, signal.SIGCHLD])
def test_other_signals_with_handlers_of_the_users_own_ask_for_nothing(number):
    assert not heard(number).stop()
    assert heard(number, signal.SIGTERM).stop()


def test_a_signal_that_was_ignored_before_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with listen() as requests:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
            assert not requests.stop()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_within_a_run_gives_the_outer_its_signals_back():
    before = signal.getsignal(signal.SIGTERM)
    with listen():
        with listen():
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
    with listen():
        child = fork.Process(target=told_by_child, args=(theirs,))
        child.start()
        assert ours.recv() == (False, -1)
        child.join()
        assert signal.getsignal(signal.SIGTERM) is signals._heard_elsewhere


WAITS = """
import multiprocessing, signal
from fastdqn.system import signals
signals._ECHO = {echo}
if {broken}:
    signals.multiprocessing.active_children = lambda: 1 / 0
with signals.listen() as requests:
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    print(child.pid, flush=True)
    while not requests.stop():
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


def test_a_checkpoint_is_asked_for_once_by_each_signal():
    requests = heard(signal.SIGUSR1)
    assert (requests.checkpoint(), requests.checkpoint(), requests.stop()) == (True, False, False)


def test_a_handler_of_the_users_own_for_a_checkpoint_stays():
    def own(number, frame):
        """A handler of the user's program."""

    before = signal.signal(signal.SIGUSR1, own)
    try:
        with listen():
            assert signal.getsignal(signal.SIGUSR1) is own
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupted(number: int, folder: Path) -> None:
    """Runs a training that a signal stops cleanly."""
    done = threading.Event()

    def on_step(progress, step):
        if progress.steps >= 300:
            os.kill(os.getpid(), number)
            assert done.wait(30)

    ask = Requests.ask_to_stop

    def note(self, number):
        ask(self, number)
        done.set()

    with mock.patch.object(Requests, "ask_to_stop", note):
        fastdqn.train(small(folder), on_step=on_step)


def assert_ended_in_order(run) -> None:
    assert json.loads((run / "summary.json").read_text())["exit_reason"] == "interrupted"
    assert load_checkpoint(run).steps >= 300
    assert not (run / "lock").exists()


def test_ctrl_c_raises_when_the_run_has_ended_in_order(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(signal.SIGINT, tmp_path)
    assert_ended_in_order(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_handler_from_before_the_run_is_called_when_it_has_ended_in_order(tmp_path, number):
    called = []

    def own(number, frame):
        assert_ended_in_order(tmp_path / "run")
        called.append(number)

    before = signal.signal(number, own)
    try:
        interrupted(number, tmp_path)
    finally:
        signal.signal(number, before)
    assert called == [number]


@pytest.mark.slow
@pytest.mark.usefixtures("waits")
def test_a_checkpoint_that_is_asked_for_is_taken_and_the_run_continues(tmp_path):
    heard, found = threading.Event(), []
    ask = Requests.ask_for_checkpoint

    def note(self):
        ask(self)
        heard.set()

    def on_step(progress, step):
        if progress.steps >= 300 and not heard.is_set():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert heard.wait(30)
        elif heard.is_set():
            found.append(load_checkpoint(tmp_path / "run").steps)

    with mock.patch.object(Requests, "ask_for_checkpoint", note):
        run = fastdqn.train(small(tmp_path), on_step=on_step)
    assert found[0] >= 300
    assert set(found) == {found[0]}
    assert run.summary["exit_reason"] == "budget spent"


@pytest.mark.slow
def test_signals_of_a_run_around_which_nobody_passes_them_on_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "_received", [signal.SIGINT])
    assert fastdqn.train(small(tmp_path)).summary["exit_reason"] == "budget spent"


@pytest.mark.slow
def test_a_resumed_run_passes_signals_on_too(tmp_path):
    run = fastdqn.train(small(tmp_path)).folder

    def on_step(progress, step):
        signals._received.append(signal.SIGINT)  # as listen() does when the run is over
        return False

    with pytest.raises(KeyboardInterrupt):
        fastdqn.resume(run, total_timesteps=100_000, on_step=on_step)
    assert not (run / "lock").exists()


@pytest.mark.slow
def test_a_run_within_a_run_ends_both(tmp_path):
    """The outer run receives what the inner one passes on."""
    outer = []

    def on_step(progress, step):
        outer.append(progress.steps)
        if len(outer) == 1:
            interrupted(signal.SIGINT, tmp_path / "inner")

    with pytest.raises(KeyboardInterrupt):
        fastdqn.train(small(tmp_path / "outer", total_timesteps=100_000), on_step=on_step)
    assert len(outer) < 20_000


LOOP = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import fastdqn
from helpers.loop import small
for seed in (1, 2, 3):
    print("began", seed, flush=True)
    fastdqn.train(small(Path({folder!r}, str(seed)), seed=seed, total_timesteps=100_000_000))
"""


@pytest.mark.slow
def test_a_script_that_trains_in_a_loop_ends_by_the_first_sigterm(tmp_path):
    code = LOOP.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "1/run/checkpoints/latest").exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.02)
                raise AssertionError("ended before its first checkpoint")
        process.terminate()
        told, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (told, process.returncode) == ("began 1\n", -signal.SIGTERM)
    summary = json.loads((tmp_path / "1/run/summary.json").read_text())
    assert summary["exit_reason"] == "interrupted"
    assert not (tmp_path / "1/run/lock").exists()
