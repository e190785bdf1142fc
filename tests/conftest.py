"""Fixtures of several tests: of checkpoints, and of the command line."""

import os
import shutil
import signal

import gymnasium
import pytest

# A shell starts what it runs in the background with SIGINT ignored, and programs inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def no_sync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    from helpers.checkpoints import make_run
    from helpers.loading import NEWEST

    return make_run(tmp_path_factory.mktemp("template"), 1, 2, NEWEST)


@pytest.fixture
def run(tmp_path, template):
    return shutil.copytree(template, tmp_path / "run")


@pytest.fixture
def waits(monkeypatch):
    """The loop waits for each checkpoint: what fails is no matter of how fast the thread is."""
    from fastdqn.checkpoints.writer import CheckpointWriter

    write = CheckpointWriter.write

    def write_and_wait(self, *args):
        write(self, *args)
        self._thread.join()

    monkeypatch.setattr(CheckpointWriter, "write", write_and_wait)


@pytest.fixture(scope="module")
def odd_environments():
    from helpers.command_line import odd_environments

    with odd_environments():
        yield


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def without_the_arcade(monkeypatch):
    """Ids as a fresh process has them: ale_py adds a thousand, and to list each is to make it."""
    for env_id, spec in list(gymnasium.registry.items()):
        if str(spec.entry_point).startswith("ale_py"):
            monkeypatch.delitem(gymnasium.registry, env_id)
