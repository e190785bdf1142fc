"""The training loop: exact counts, equal bits for equal seeds, and the reason for the end."""

import itertools
import json
from fractions import Fraction

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

import fastdqn
from fastdqn.builders import build
from fastdqn.cli import main as cli
from fastdqn.learning.policy import Policy
from fastdqn.learning.target_network import HardCopy
from fastdqn.logging.console import Silent
from fastdqn.replay import UniformSampler
from fastdqn.schedules import Budget
from fastdqn.training import loop
from fastdqn.training.loop import Cadence
from helpers.cost import slow_but
from helpers.loop import Poisoned, run_loop, small
from helpers.setups import setup_of


@pytest.mark.slow
@pytest.mark.parametrize("num_envs", [1, 3, 64, 4096])
def test_half_a_million_steps_make_exactly_the_updates_due(num_envs):
    """One update per 10 steps after 10,000: 49,000, whatever the stride and however many of the
    lanes were resetting in a call."""
    cadence = Cadence(10_000, Fraction(10), 0, 1_000)
    budget = Budget(500_000, None)
    rng = np.random.default_rng(num_envs)
    steps = before = now = updates = 0
    while not budget.spent(steps, 0):
        updates += cadence.updates_due(before, now)
        steps += max(1, num_envs - int(rng.integers(num_envs // 8 + 1)))
        before, now = now, budget.counted(steps)
    updates += cadence.updates_due(before, now)
    assert updates == 49_000


@pytest.mark.parametrize("num_envs", slow_but([1, 3, 7, 64], 1))
@pytest.mark.parametrize("frequency", [Fraction(4), Fraction(7, 3), Fraction(1, 2)])
def test_the_loop_makes_exactly_the_updates_due(tmp_path, num_envs, frequency, monkeypatch):
    copies = []
    follow = HardCopy.follow
    monkeypatch.setattr(
        HardCopy, "follow", lambda *args: copies.append(due := follow(*args)) or due
    )
    config = small(
        tmp_path, num_envs=num_envs, train_frequency=frequency, target_network_frequency=20
    )
    session, _ = run_loop(config)
    due = 700 // frequency - 50 // frequency
    assert session.run.learner.updates == session.run.progress.updates == due
    assert sum(copies) == due * frequency // 20
    assert 700 <= session.run.progress.steps < 700 + num_envs


def test_the_sampler_gets_the_steps_before_the_one_in_flight(tmp_path, monkeypatch):
    told, draw = [], UniformSampler.draw

    def draw_and_tell(sampler, ring, n_steps, index, weight, steps):
        told.append(steps)
        draw(sampler, ring, n_steps, index, weight, steps)

    config = small(tmp_path, train_frequency=4)
    monkeypatch.setattr(UniformSampler, "draw", draw_and_tell)
    session, _ = run_loop(config)
    told = told[1:]  # the first is the constructor's
    assert len(told) == session.run.progress.updates
    # Update i is due at step 52 + 4 i; with four environments it is at most three steps late.
    assert [(steps - 52) // 4 for steps in told] == list(range(len(told)))


def test_the_steps_counted_are_those_the_episodes_contain(tmp_path):
    session, _ = run_loop(small(tmp_path, total_timesteps=2_000, num_envs=8))
    lengths = np.loadtxt(tmp_path / "run" / "episodes.csv", delimiter=",", skiprows=1)[:, 4]
    stream = session.run.stream
    assert lengths.sum() + stream._lengths.sum() == session.run.progress.steps


def test_the_policy_is_given_the_scheduled_epsilon(tmp_path, monkeypatch):
    given = []
    act = Policy.act
    monkeypatch.setattr(
        Policy,
        "act",
        lambda self, obs, epsilon, *others: given.append(epsilon) or act(self, obs, epsilon),
    )
    run_loop(small(tmp_path, exploration_fraction=0.5, exploration_final_eps=0.1, num_envs=7))
    assert given[0] == 1.0
    assert given[-1] == 0.1
    assert given == sorted(given, reverse=True)


def test_a_budget_of_episodes_ends_the_run(tmp_path):
    config = small(
        tmp_path, num_envs=1, total_timesteps=None, total_episodes=12, exploration_decay=0.9
    )
    session, reason = run_loop(config)
    assert session.run.progress.episodes == 12
    assert reason == "budget spent"


def test_phases_sum_to_the_wall_time(tmp_path):
    looks = itertools.count()  # a second passes from one look at the clock to the next

    def clock() -> float:
        return float(next(looks))

    session = build.build(setup_of(small(tmp_path)), lambda _: Silent(), clock=clock)
    began = clock()
    loop.train(session.run)
    ended = clock()
    session.close()
    totals = session.run.laps.totals
    # Two of them are not the loop's: before it first looks, and after it last did.
    assert sum(totals.values()) == ended - began - 2.0
    assert {"act", "sample", "upload", "learn", "env", "store", "report"} <= totals.keys()


@pytest.mark.parametrize("overrides", slow_but([{}, {"n_steps": 3, "vectorization": "sync"}], 1))
def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path, overrides):
    def weights(name, seed):
        run = fastdqn.train(
            small(tmp_path, seed=seed, eval_frequency=200, **overrides),
            run_dir=str(tmp_path / name),
        )
        return (run.folder / "policy.safetensors").read_bytes()

    first, again, other = weights("a", 1), weights("b", 1), weights("c", 2)
    assert first == again
    assert first != other


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [{}, {"prioritized": True, "n_steps": 3}])
def test_environments_that_step_while_it_learns_change_no_bit(tmp_path, overrides):
    def weights(vectorization):
        config = small(tmp_path / vectorization, vectorization=vectorization, **overrides)
        run = fastdqn.train(config.replace(num_envs=2, total_timesteps=300))
        return (run.folder / "policy.safetensors").read_bytes()

    assert weights("sync") == weights("async")


def test_evaluating_changes_nothing_that_is_learned(tmp_path):
    def weights(name, frequency):
        run = fastdqn.train(small(tmp_path), eval_frequency=frequency, run_dir=str(tmp_path / name))
        return (run.folder / "policy.safetensors").read_bytes()

    assert weights("never", 0) == weights("often", 100)


def test_environments_differ_from_each_other(tmp_path):
    session = build.build(setup_of(small(tmp_path, vectorization="sync")), lambda _: Silent())
    obs = session.run.stream.obs
    session.close()
    assert len(np.unique(obs, axis=0)) == len(obs)


def test_a_bad_reward_stops_the_run_and_names_environment_and_step(tmp_path):
    envs = SyncVectorEnv([lambda: Poisoned(1.0), lambda: Poisoned(1.0), Poisoned, Poisoned])
    with pytest.raises(fastdqn.envs.NonFiniteError, match="env 2, step 10: reward is nan"):
        run_loop(small(tmp_path), envs)


def test_a_diverged_loss_stops_the_run_and_leaves_no_policy(tmp_path):
    envs = SyncVectorEnv([lambda: Poisoned(3e38)] * 4)
    with pytest.raises(loop.DivergedError, match=r"the loss is (inf|nan) at update \d+, step"):
        fastdqn.train(small(tmp_path, loss="mse", max_grad_norm=None), envs)
    assert not (tmp_path / "run" / "policy.safetensors").exists()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"].startswith("failed: the loss is")


def test_the_command_line_reports_a_bad_environment_in_one_line(tmp_path, capsys):
    gymnasium.register("Poisoned-v0", lambda **_: Poisoned())
    arguments = ["--total-timesteps", "2000", "--num-envs", "4", "--run-dir", str(tmp_path / "r")]
    try:
        assert cli.main(["train", "Poisoned-v0", *arguments, "--quiet"]) == 1
    finally:
        del gymnasium.registry["Poisoned-v0"]
    assert capsys.readouterr().err == "error: env 0, step 10: reward is nan\n"


@pytest.mark.slow
def test_given_environments_stay_open_and_a_given_torso_stays_as_it_was(tmp_path):
    import torch

    torso = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh())
    before = [p.clone() for p in torso.parameters()]
    envs = gymnasium.make_vec("CartPole-v1", 4)
    run = fastdqn.train(small(tmp_path), envs, torso=torso)
    assert envs.reset(seed=0)[0].shape == (4, 4)
    assert all(torch.equal(a, b) for a, b in zip(before, torso.parameters(), strict=True))
    policy = fastdqn.load_policy(run.folder, torso=torso)
    assert set(policy(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))) <= {0, 1}
    with pytest.raises(ValueError, match="torso"):
        fastdqn.load_policy(run.folder)
    assert run.summary["eval"] is None


def test_given_environments_determine_num_envs(tmp_path):
    envs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 3)
    run = fastdqn.train(small(tmp_path, num_envs=4, total_timesteps=90), envs)
    envs.close()
    assert json.loads((run.folder / "config.json").read_text())["num_envs"] == 3
