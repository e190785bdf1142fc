"""Every pair of switches either trains or is rejected with the reason."""

import itertools
import math

import pytest
import torch

from fastdqn import Config
from fastdqn.config.conflicts import epsilons, remarks
from fastdqn.config.registry import WORDS
from helpers.cost import slow_but_one_of
from helpers.loop import run_loop
from helpers.switches import SWITCHES, paired

# Incompatible pairs, with text of the error message. Every other pair trains.
REFUSED = {
    ("categorical", "munchausen"): "munchausen adds an entropy bonus to the bootstrap value",
    ("categorical", "huber"): "value categorical has its own loss",
    ("quantile", "huber"): "value quantile has its own loss",
    ("implicit-quantile", "huber"): "value implicit-quantile has its own loss",
    ("hl-gauss", "huber"): "value hl-gauss has its own loss",
    ("prioritized", "no-replay"): "leave out --no-replay or --prioritized",
    ("ladder", "decay"): "exploration is ladder, whose epsilon is constant",
}
# Values of one option, which cannot be combined.
PAIRS = [
    pair
    for pair in itertools.combinations(SWITCHES, 2)
    if not {"value"} <= SWITCHES[pair[0]].keys() & SWITCHES[pair[1]].keys()
]


@pytest.mark.parametrize(
    "pair", slow_but_one_of([pytest.param(pair) for pair in PAIRS], 48), ids="-".join
)
def test_a_pair_of_switches_trains_200_updates_or_is_rejected_with_a_reason(tmp_path, pair):
    config = paired(tmp_path, *pair)
    if pair in REFUSED:
        (line,) = config.problems()
        assert REFUSED[pair] in line
        assert "\n" not in line
        return
    assert config.problems() == []
    session, reason = run_loop(config)
    learner = session.run.learner
    assert (reason, learner.updates) == ("budget spent", 200)
    assert learner.online.weights.isfinite().all()
    assert math.isfinite(learner.loss_total())
    assert not torch.equal(learner.target.weights, torch.zeros_like(learner.target.weights))


@pytest.mark.slow
@pytest.mark.parametrize("value", WORDS["value"])
def test_all_compatible_switches_train_together(tmp_path, value):
    names = {"double", "dueling", "prioritized", "n_steps", "noisy", "polyak",
             "normalize_observation", "normalize_reward", "ladder"}  # fmt: skip
    names |= {"munchausen"} if value != "categorical" else set()
    names |= {"huber"} if value == "scalar" else {value}
    session, _ = run_loop(paired(tmp_path, *sorted(names)))
    assert session.run.learner.updates == 200
    assert math.isfinite(session.run.learner.loss_total())


@pytest.mark.slow
@pytest.mark.parametrize("value", ["scalar", "quantile", "implicit-quantile"])
def test_munchausen_uses_the_masks_of_both_states(tmp_path, value):
    session, _ = run_loop(
        paired(tmp_path, "munchausen", env_id="Taxi-v4", value=value, eval_max_steps=20)
    )
    assert not session.run.staging.host.mask.all()
    assert math.isfinite(session.run.learner.loss_total())


def test_prioritized_needs_a_horizon_for_its_weights():
    config = Config(prioritized=True, total_timesteps=None, total_episodes=9, exploration_decay=0.9)
    (line,) = config.problems()
    assert "importance_exponent rises over total_timesteps, which is None" in line


@pytest.mark.parametrize(
    ("v_min", "v_max"), [(1.0, 1.0), (2.0, -2.0), (10.0, 10.0000001), (-1e-40, 1e-40)]
)
def test_atoms_need_a_range_that_float32_can_resolve(v_min, v_max):
    (line,) = Config(value="categorical", v_min=v_min, v_max=v_max).problems()
    assert line.startswith(f"v_min is {v_min}, v_max {v_max}")
    assert Config(v_min=v_min, v_max=v_max).problems() == []  # other values have no atoms


# -- remarks and epsilon


def test_changed_and_added_options_are_reported():
    assert remarks(Config()) == remarks(Config(noisy=True)) == []
    assert remarks(Config(munchausen=True, double=False)) == []
    assert "double has no effect" in remarks(Config(munchausen=True))[0]
    assert remarks(Config(noisy=True, exploration_final_eps=0.1)) == [
        "noisy layers explore, and epsilon 0.1 in addition"
    ]
    assert remarks(Config(noisy=True, exploration="ladder")) == [
        "noisy layers explore, and epsilon 0.4 in addition"
    ]
    assert remarks(Config(noisy=True, exploration_zeta=2.0)) == [
        "epsilon is 0, so no random action is repeated: exploration_zeta has no effect"
    ]
    assert not remarks(Config(exploration_initial_eps=0.0, exploration_zeta=2.0))  # it rises


def test_epsilon_that_decays_before_learning_is_reported():
    short = Config(total_timesteps=20_000, learning_starts=2_000, exploration_fraction=0.1)
    assert "decayed to 0.05 by step 2,000, before learning starts at 2,000" in remarks(short)[0]
    assert remarks(short.replace(learning_starts=1_999)) == []
    assert remarks(short.replace(exploration_decay=0.9)) == []
    assert remarks(short.replace(noisy=True)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1.0, 0.05)),
        ({"noisy": True}, (0.0, 0.0)),
        ({"noisy": True, "exploration_final_eps": 0.1}, (0.1, 0.1)),
        ({"noisy": True, "exploration_initial_eps": 0.3}, (0.3, 0.0)),
        ({"exploration_initial_eps": 0.3, "exploration_final_eps": 0.2}, (0.3, 0.2)),
        ({"noisy": True, "exploration_initial_eps": 0.3, "exploration_final_eps": 0.2}, (0.3, 0.2)),
    ],
)
def test_noise_replaces_epsilon_by_default(tmp_path, options, expected):
    assert epsilons(Config(**options)) == expected
    session, _ = run_loop(paired(tmp_path, **options))
    assert (session.run.epsilon(0, 0), session.run.epsilon(10**9, 0)) == expected
    assert (session.config.exploration_initial_eps, session.config.exploration_final_eps) == (
        expected
    )
