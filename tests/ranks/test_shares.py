"""What a rank makes of the options of the whole run: its share, its seeds, its environments."""

import json
from typing import Any

import numpy as np
import pytest

from fastdqn import Config
from fastdqn.builders import build
from fastdqn.builders.rank_share import rank_seed, share_of
from fastdqn.logging.console import Silent
from fastdqn.ranks.one_rank import RanksError
from fastdqn.session import run_session
from fastdqn.training.loop import Hooks, Run
from helpers.loop import small
from helpers.ranks import Alone
from helpers.setups import setup_of


def built(tmp_path, monkeypatch, index: int | None = None, **overrides) -> Run:
    """Returns the run of one of two ranks, or of the only one."""
    config = small(tmp_path, run_dir=str(tmp_path / f"rank{index}"), **overrides)
    if index is None:
        session = build.build(setup_of(config), lambda _: Silent())
    else:
        monkeypatch.setenv("WORLD_SIZE", "2")
        ranks: Any = Alone(index)
        session = build.build(setup_of(config), lambda _: Silent(), ranks=ranks)
    session.close()
    return session.run


def test_each_rank_has_an_equal_part():
    config = Config(ranks=4, num_envs=64, batch_size=128, buffer_size=1_000, env_batch_size=32)
    share = share_of(config, 3)
    assert (share.num_envs, share.batch_size, share.buffer_size) == (16, 32, 250)
    assert (share.env_batch_size, share.workers) == (8, None)
    assert (share.learning_starts, share.train_frequency) == (1_000, config.train_frequency)
    assert share_of(Config()) == Config()


def test_worker_processes_are_those_of_all_ranks(monkeypatch):
    monkeypatch.setattr("fastdqn.builders.rank_share.usable_cores", lambda: 16)
    config = Config(ranks=2, num_envs=64, vectorization="workers")
    assert share_of(config).workers == 7
    assert share_of(config.replace(workers=6)).workers == 3
    assert share_of(config.replace(ranks=32, num_envs=64)).workers == 1


def test_ranks_have_seeds_and_devices_of_their_own_and_the_first_evaluates():
    config = Config(ranks=3, num_envs=12, device="cuda", tensorboard=True, wandb=True)
    shares = [share_of(config, index, index % 2) for index in range(3)]
    assert [share.seed for share in shares] == [1, rank_seed(1, 1), rank_seed(1, 2)]
    assert len({share.seed for share in shares}) == 3
    assert [share.device for share in shares] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [share.eval_frequency > 0 for share in shares] == [True, False, False]
    assert [share.tensorboard for share in shares] == [True, False, False]
    assert [share.wandb for share in shares] == [True, False, False]


def test_environments_of_the_ranks_are_those_of_one_process(tmp_path, monkeypatch):
    alone = built(tmp_path, monkeypatch).stream.obs
    parts = [built(tmp_path, monkeypatch, index).stream.obs for index in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(parts), alone)


def test_a_rank_explores_with_its_part_of_a_ladder(tmp_path, monkeypatch):
    alone = built(tmp_path, monkeypatch, exploration="ladder").epsilon(0, 0)
    parts = [
        built(tmp_path, monkeypatch, index, exploration="ladder").epsilon(0, 0) for index in (0, 1)
    ]
    assert [len(each) for each in parts if isinstance(each, np.ndarray)] == [2, 2]
    np.testing.assert_array_equal(np.concatenate(parts), alone)  # pyright: ignore[reportArgumentType]


def test_updates_are_due_by_the_steps_of_the_whole_run(tmp_path, monkeypatch):
    alone = built(tmp_path, monkeypatch)
    rank = built(tmp_path, monkeypatch, 1, eval_frequency=100)
    assert rank.cadence.updates_due(0, 1_000) == alone.cadence.updates_due(0, 1_000)
    assert rank.cadence.eval_frequency == 100
    assert rank.best_weights is not None
    assert len(rank.staging.device.action) == 8
    assert rank.replay.ring.num_lanes == 2


@pytest.mark.parametrize("index", [0, 1])
def test_config_json_has_the_options_of_the_whole_run(tmp_path, monkeypatch, index):
    built(tmp_path, monkeypatch, index, vectorization="sync")
    config = Config.from_json((tmp_path / f"rank{index}" / "config.json").read_text())
    assert (config.ranks, config.num_envs, config.batch_size, config.seed) == (2, 4, 16, 1)


class Unequal(Alone):
    """A rank whose weights differ from those of the other."""

    def require_equal(self, checksum, what: str) -> None:
        raise RanksError(f"{what} differ, {checksum()}")


def test_different_weights_end_the_run_at_the_next_report(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    setup = setup_of(small(tmp_path, checkpoint_seconds=None))
    ranks: Any = Unequal(0)
    session = build.build(setup, lambda _: Silent(), ranks=ranks)
    with pytest.raises(RanksError, match="the weights differ"):
        run_session(session)
    assert 70 <= session.run.progress.steps < 72
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"].startswith("failed: the weights differ")
    assert not (tmp_path / "run" / "policy.safetensors").exists()


@pytest.mark.parametrize("index", [0, 1])
def test_a_callback_of_one_rank_ends_the_run_of_all_in_the_next_turn(tmp_path, monkeypatch, index):
    """Alone, a rank never receives its own wish to end, so that the run goes on to its budget."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    wishes = []

    class Wishing(Alone):
        def end(self, reason: str) -> str:
            wishes.append(reason)
            return ""

    ranks: Any = Wishing(index)
    hooks = Hooks(on_step=lambda progress, step: progress.steps < 600)
    session = build.build(setup_of(small(tmp_path)), lambda _: Silent(), hooks=hooks, ranks=ranks)
    assert run_session(session).summary["exit_reason"] == "budget spent"
    assert set(wishes) == {"stopped by on_step"}
