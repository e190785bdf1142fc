"""Comparison with Stable-Baselines3: its options, differences and errors."""

import dataclasses
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from fastdqn.bench.repeats import Effort
from fastdqn.bench.sb3_peer import PeerError, note, refusal, sb3_options, sb3_peer
from fastdqn.builders.parts import part_options
from fastdqn.builders.preflight import preview
from fastdqn.cli.main import main
from fastdqn.config.presets import PRESETS
from fastdqn.config.registry import WORDS
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts

FACTS = EnvFacts((4,), np.dtype(np.float32), 1.0, 2, 0)
EFFORT = Effort(0.001, 1, 0.0)
# Options with which the preset is work that Stable-Baselines3 can do.
EQUAL = ["--no-double", "--no-dueling", "--loss", "huber"]


@pytest.fixture
def sb3(monkeypatch):
    """Fake of Stable-Baselines3 that takes a second for a step of 4 environments."""
    fake = SimpleNamespace(now=0.0, closed=0, options={}, fails=None, learning_starts=[])

    class Envs:
        observation_space = None

        def __init__(self, makers):
            self.num_envs = len(makers)

        def close(self) -> None:
            fake.closed += 1

    class Callback:
        def __init__(self):
            self.model, self.num_timesteps = None, 0

    class Model:
        def __init__(self, policy, envs, **options):
            fake.options = options
            self.learning_starts, self._n_updates = options["learning_starts"], 0
            self.steps, self.lanes = 0, envs.num_envs

        def learn(self, total, callback, **_) -> None:
            if fake.fails is not None:
                raise fake.fails
            callback.model, callback.num_timesteps = self, self.steps
            callback._on_training_start()
            while True:
                fake.now += 1.0
                self.steps += self.lanes
                callback.num_timesteps = self.steps
                self._n_updates += self.steps > self.learning_starts
                fake.learning_starts.append(self.learning_starts)
                if not callback._on_step():
                    return

    modules = {
        "stable_baselines3": {"DQN": Model},
        "stable_baselines3.common": {},
        "stable_baselines3.common.callbacks": {"BaseCallback": Callback},
        "stable_baselines3.common.vec_env": {"DummyVecEnv": Envs},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        vars(module).update(members, __spec__=SimpleNamespace())
        monkeypatch.setitem(sys.modules, name, module)
    return fake


def config(**changes):
    return preview(PRESETS["cartpole"].replace(num_envs=4, **changes)).config


def test_environments_of_sb3_are_closed_and_random_steps_end_in_time(sb3):
    with sb3_peer(config(learning_starts=5_000), EFFORT, lambda: sb3.now) as run:
        assert run() == 4.0  # steps of a second
        assert sb3.closed == 0
    assert sb3.closed == 1
    assert len(sb3.learning_starts) < 20  # not 1,250


@pytest.mark.parametrize("fails", [ValueError("no such\nspace"), AssertionError()])
def test_errors_of_sb3_are_one_line_and_close_its_environments(sb3, fails):
    sb3.fails = fails
    with pytest.raises(PeerError) as raised, sb3_peer(config(), EFFORT, lambda: sb3.now):
        raise AssertionError("it is not to be had")
    assert str(raised.value).startswith("Stable-Baselines3 cannot train this: ")
    assert "\n" not in str(raised.value)
    assert sb3.closed == 1


def test_nothing_is_measured_if_sb3_fails(sb3, monkeypatch, capsys):
    sb3.fails = ValueError("boom")
    monkeypatch.setattr("fastdqn.bench.bench.measure_training", None)
    assert main(["bench", "train", "cartpole", "--against", "sb3", *EQUAL]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: Stable-Baselines3 cannot train this: boom"


def test_each_row_of_a_comparison_names_its_number_of_environments(sb3, monkeypatch, capsys):
    monkeypatch.setattr("fastdqn.bench.bench._Measuring._train", lambda self, with_levers: None)
    few = ["--num-envs", "2", "3", "--seconds", "0.01", "--repeats", "1", "--format", "json"]
    assert main(["bench", "train", "cartpole", "--against", "sb3", *EQUAL, *few]) == 0
    _, *rows = json.loads(capsys.readouterr().out)
    assert [row.get("num_envs") for row in rows] == [2, 2, 2, 3, 3, 3]
    assert rows[2]["sentence"].startswith("with 2 environments: fastdqn makes ")


def test_sb3_gets_the_same_n_steps(sb3):
    assert sb3_options(config(n_steps=3, learning_starts=1_000))["n_steps"] == 3


def equal(**changes):
    return config(**{"double": False, "dueling": False, "loss": "huber", **changes})


def test_differences_of_sb3_are_named():
    assert note(equal(learner="torch")) == (
        "Stable-Baselines3: one random decision to explore for all environments, no forward pass "
        "for a random action, environments stepped in sequence in a DummyVecEnv"
    )
    said = note(equal(capture="compile", target_network_frequency=10, max_grad_norm=None))
    for words in ("not compiled", "target every 8 steps", "not clipped"):
        assert words in said
    assert "not by one kernel" in note(equal(learner="fused"))


def test_work_that_sb3_cannot_do_is_refused():
    assert refusal(equal(), FACTS) is None
    other = config(
        normalize_observation=True, normalize_reward=True, exploration="ladder",
        vectorization="async", env_batch_size=2, prioritized=True, value="quantile",
        noisy=True, optimizer="rmsprop", learning_rate_schedule="cosine", hidden_activation="tanh",
    )  # fmt: skip
    other = other.replace(torso="minatar", atari_protocol="dqn2015")
    said = refusal(other, FACTS._replace(has_masks=True))
    assert said is not None
    assert "\n" not in said
    for words in (
        "no Double (--no-double)", "no Dueling (--no-dueling)", "only the Huber loss",
        "no normalization of observations", "no normalization of rewards",
        "no action masks (a --wrapper that removes them",
        "not a ladder", "all environments waited for, not 2", "no prioritized replay",
        "scalar values, not quantile", "no noisy layers", "other convolutions than minatar",
        "no protocol dqn2015", "Adam, not rmsprop", "a constant learning rate", "ReLU, not tanh",
    ):  # fmt: skip
        assert words in said
    pixels = FACTS._replace(obs_shape=(10, 10, 4))
    assert "other layers for pixels" in str(refusal(equal(), pixels))
    own = equal().replace(backup="my_module:Mine", exploration="my_module:Mine")
    for changed, words in (
        (equal(replay=False), "always a replay buffer"),
        (equal(target_network=False), "always a target network"),
        (equal(sampler="recent"), "uniform samples, not recent"),
        (equal(exploration_decay=0.9), "by steps, not by episodes"),
        (equal(exploration_zeta=2.0), "no repeated random actions"),
        (own, "the maximum, not my_module:Mine"),
        (own, "a linear decay of epsilon, not my_module:Mine"),
    ):
        assert words in str(refusal(changed, FACTS))


def test_unequal_work_is_one_line_before_anything_is_measured(sb3, monkeypatch, capsys):
    monkeypatch.setattr("fastdqn.bench.bench.measure_training", None)
    assert main(["bench", "train", "cartpole", "--against", "sb3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: Stable-Baselines3 cannot do the same work: no Double")


# Each option is passed to Stable-Baselines3, named or refused, or does not affect the work.
PASSED = """env_id env_kwargs wrapper num_envs total_timesteps seed learning_rate buffer_size
learning_starts batch_size train_frequency target_network_frequency tau gamma n_steps max_grad_norm
hidden_sizes exploration_initial_eps exploration_final_eps exploration_fraction device threads
adam_epsilon"""
NAMED = """double dueling loss normalize_observation normalize_reward exploration
exploration_decay exploration_zeta env_batch_size double_buffering learner capture vectorization
workers prioritized value munchausen noisy torso atari_protocol replay target_network precision
updates_per_launch optimizer hidden_activation learning_rate_schedule sampler backup init_weights
from_run prefill offline"""
NO_WORK = """noisy_sigma preset total_episodes eval_frequency eval_episodes
eval_max_steps stop_at_return run_dir checkpoint_frequency checkpoint_seconds checkpoint_replay
log_frequency tensorboard wandb store max_step_seconds restart_envs on_disk_error priority_lag
final_evaluation dueling_gradient_scale part_kwargs from_parts info_keys snapshot_frequency
actors actor_num_envs ray_address actor_block_steps actor_blocks actor_weights_frequency
actor_restarts actor_priorities ranks"""


def test_every_option_is_passed_to_sb3_or_named():
    known = {*PASSED.split(), *NAMED.split(), *NO_WORK.split()}
    fields = {field.name for field in dataclasses.fields(Config)}
    # refusal() names a part, and with it the options that only this part takes.
    of_parts = {
        name
        for option, words in WORDS.items()
        for word, path in words.items()
        if path
        for name in part_options(option, word)
    }
    assert fields - known - of_parts == set(), "name it in sb3_peer.py, or pass it"
    assert known - fields == set()


def test_the_real_sb3_trains_in_turns(tmp_path):
    pytest.importorskip("stable_baselines3")
    out = tmp_path / "out.jsonl"
    words = "bench train cartpole --num-envs 4 --n-steps 3 --against sb3 --seconds 0.01 --repeats 1"
    assert main([*words.split(), *EQUAL, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["program"] for row in rows if "program" in row] == ["fastdqn", "sb3"]
    assert sum("header" in row for row in rows) == 1
