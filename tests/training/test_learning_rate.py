"""Learning rates, optimizers, activations and samplers in a run, its files and its resumption."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import fastdqn
from fastdqn.builders import agent
from fastdqn.checkpoints.network_weights import load_weights
from fastdqn.learning.learner import Learner
from fastdqn.schedules import Cosine, Piecewise, linear_rate
from helpers.command_line import ask
from helpers.cost import slow_but
from helpers.loop import run_loop, small
from helpers.resumed_runs import (
    asked_by_the_test,  # noqa: F401  # by its name alone
    assert_same_run,
    nothing,
    stopping_at,
)

COSINE = {"learning_rate_schedule": "cosine", "final_learning_rate": 1e-5}
PIECEWISE = {
    "learning_rate_schedule": "piecewise",
    "learning_rate_steps": (100, 400, 600),
    "learning_rate_values": (1e-3, 2e-4, 4e-4),
}
VARIANTS = {
    "cosine": COSINE,
    "piecewise": PIECEWISE | {"value": "hl-gauss", "num_atoms": 9},
    "linear": {"learning_rate_schedule": "linear", "optimizer": "adamw"},
    "adamw": {"optimizer": "adamw", "part_kwargs": {"optimizer.weight_decay": 0.1}},
    "radam": {"optimizer": "radam"},
    "rmsprop": {"optimizer": "rmsprop", "learning_rate": 2.5e-4},
    "recent": {"sampler": "recent", "recency": 30.0},
    "silu": {"hidden_activation": "silu", "hidden_sizes": (8, 6)},
}


def seen_rates(monkeypatch, config) -> list[tuple[int, float]]:
    """Trains, and returns (steps made, learning rate) of each update."""
    rates, steps, original = [], [], Learner.update

    def update(self, *batches):
        rates.extend([float(self.optimizer.learning_rate)] * len(batches))
        return original(self, *batches)

    monkeypatch.setattr(Learner, "update", update)
    fastdqn.train(config, on_update=lambda progress, *_: steps.append(progress.steps))
    return list(zip(steps, rates[-len(steps) :], strict=True))  # without those of the warm-up


@pytest.mark.parametrize(
    ("options", "schedule"),
    [
        (
            {"learning_rate_schedule": "linear", "final_learning_rate": 1e-4},
            linear_rate(5e-4, 1e-4, 700),
        ),
        (COSINE, Cosine(5e-4, 1e-5, 700)),
        (PIECEWISE, Piecewise(5e-4, (100, 400, 600), (1e-3, 2e-4, 4e-4))),
        pytest.param(
            COSINE | {"optimizer": "adamw"}, Cosine(5e-4, 1e-5, 700), marks=pytest.mark.slow
        ),
        (COSINE | {"optimizer": "rmsprop"}, Cosine(5e-4, 1e-5, 700)),
        (COSINE | {"learner": "fused"}, Cosine(5e-4, 1e-5, 700)),
    ],
    ids=["linear", "cosine", "piecewise", "adamw", "rmsprop", "fused"],
)
def test_each_update_uses_the_rate_of_the_steps_made(tmp_path, monkeypatch, options, schedule):
    seen = seen_rates(monkeypatch, small(tmp_path, train_frequency=2, **options))
    assert len(seen) == 325
    assert (seen[0][0], seen[-1][0]) == (pytest.approx(52, abs=4), pytest.approx(700, abs=4))
    assert [rate for _, rate in seen] == [np.float32(schedule(steps, 0)) for steps, _ in seen]
    assert len({rate for _, rate in seen}) > 100


def test_a_constant_rate_is_never_set(tmp_path, monkeypatch):
    def refuse(self, rate):
        raise AssertionError("the learning rate was set")

    monkeypatch.setattr(Learner, "set_learning_rate", refuse)
    session, _ = run_loop(small(tmp_path))
    assert session.run.learning_rate is None
    assert float(session.run.learner.optimizer.learning_rate) == np.float32(5e-4)


@pytest.mark.parametrize("variant", slow_but(VARIANTS, 1))
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, variant):
    config = small(tmp_path, eval_frequency=250, log_frequency=90, **VARIANTS[variant])
    whole = fastdqn.train(config, run_dir=str(tmp_path / "whole"), on_step=nothing)
    part = fastdqn.train(config, run_dir=str(tmp_path / "part"), on_step=stopping_at(330))
    assert part.summary["exit_reason"] == "interrupted"
    fastdqn.resume(part.folder, on_step=nothing)
    assert_same_run(whole.folder, part.folder)


@pytest.mark.slow
def test_each_option_changes_what_a_run_learns(tmp_path):
    options = VARIANTS | {"plain": {}}
    learned = set()
    for name, changes in options.items():
        session, _ = run_loop(small(tmp_path / name, learner="torch", **changes))
        weights = session.run.learner.online.weights
        assert weights.isfinite().all()
        learned.add(weights.numpy().tobytes())
    assert len(learned) == len(options)


@pytest.mark.parametrize("activation", slow_but(["tanh", "silu", "gelu", "elu", "leaky-relu"], 0))
def test_a_hidden_activation_comes_back_with_the_weights(tmp_path, monkeypatch, activation):
    policies, make_policy = [], agent.make_policy

    def remember(*arguments):
        policies.append(make_policy(*arguments))
        return policies[-1]

    monkeypatch.setattr(agent, "make_policy", remember)
    config = small(tmp_path, hidden_activation=activation, hidden_sizes=(8, 6))
    run = fastdqn.train(config).folder
    assert load_weights(run / "policy.safetensors")[1]["hidden_activation"] == activation
    obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    expected = policies[-1](obs)
    assert len(set(expected.tolist())) > 1
    np.testing.assert_array_equal(fastdqn.load_policy(run)(obs), expected)
    assert ask("eval", str(run), "--episodes", "2")[0] == 0


def test_weights_from_before_the_option_have_relu(tmp_path):
    run = fastdqn.train(small(tmp_path)).folder
    obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    expected = fastdqn.load_policy(run)(obs)
    with safe_open(run / "policy.safetensors", "np") as stored:
        arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        described = json.loads(stored.metadata()["fastdqn"])
    assert described["network"].pop("hidden_activation") == "relu"
    save_file(arrays, tmp_path / "old.safetensors", {"fastdqn": json.dumps(described)})
    np.testing.assert_array_equal(fastdqn.load_policy(tmp_path / "old.safetensors")(obs), expected)
