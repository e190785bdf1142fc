"""Results of parts of a user's own: what breaks an interface is found, in one line."""

import numpy as np
import pytest
import torch

import fastdqn
from fastdqn.part_error import PartError
from fastdqn.replay import UniformSampler
from helpers.loop import small


class Spoiled(UniformSampler):
    """Draws as its base class. Then a function changes index [B] and weight [B]."""

    def __init__(self, spoil):
        super().__init__(seed=1)
        self.spoil = spoil

    def draw(self, ring, n_steps, index, weight, steps):
        super().draw(ring, n_steps, index, weight, steps)
        self.spoil(index, weight)


class Lazy(UniformSampler):
    """Fills only the first half of index."""

    def draw(self, ring, n_steps, index, weight, steps):
        super().draw(ring, n_steps, index[: len(index) // 2], weight, steps)


def of_index(row: int):
    return Spoiled(lambda index, weight: index[-1:].fill(row))


def of_weight(number: float):
    return Spoiled(lambda index, weight: weight[-1:].fill(number))


@pytest.mark.parametrize(("sampler", "line"), [
    (of_index(-5), "sampler Spoiled returned row -5 at step 55, which may not be sampled: draw()"),
    (of_index(2**62), f"sampler Spoiled returned row {2**62} at step 55, which"),
    (Lazy(seed=1), "sampler Lazy returned row -1 at step 55, which may not be sampled"),
    (of_weight(float("nan")), "sampler Spoiled returned the weight nan at step 55: draw()"),
    (of_weight(-1.0), "sampler Spoiled returned the weight -1.0 at step 55: draw()"),
    (of_weight(float("inf")), "sampler Spoiled returned the weight inf at step 55: draw()"),
])  # fmt: skip
def test_a_sampler_may_return_valid_rows_and_weights_only(tmp_path, sampler, line):
    with pytest.raises(PartError) as caught:
        fastdqn.train(small(tmp_path), sampler=sampler)
    assert str(caught.value).startswith(line)


def test_an_overwritten_row_is_found(tmp_path):
    with pytest.raises(PartError, match="returned row 0 at step"):
        fastdqn.train(small(tmp_path, buffer_size=100), sampler=of_index(0))


class Stateful(UniformSampler):
    def __init__(self, saved):
        super().__init__(seed=1)
        self.saved = saved

    def state(self):
        return self.saved


@pytest.mark.parametrize(("saved", "line"), [
    (None, "sampler Stateful has the state None: state() must return a dict"),
    ({"x": {1}}, "state() of sampler Stateful.x is of type set"),
])  # fmt: skip
def test_a_sampler_whose_state_cannot_be_saved_is_found_before_the_run(tmp_path, saved, line):
    with pytest.raises(fastdqn.ConfigError) as caught:
        fastdqn.train(small(tmp_path), sampler=Stateful(saved))
    assert caught.value.lines[0].startswith(line)
    assert not (tmp_path / "run").exists()


def later(first, then):
    return lambda steps, episodes: first if steps < 300 else then


@pytest.mark.parametrize(("option", "then", "line"), [
    ("learning_rate_schedule", -1.0, "learning_rate_schedule returns -1.0 at step 302: it must"),
    ("learning_rate_schedule", float("nan"), "learning_rate_schedule returns nan at step 302"),
    ("exploration", float("nan"), "exploration returns nan at step 302: it must return a number"),
    ("exploration", 1.5, "exploration returns 1.5 at step 302: it must return a number"),
    ("exploration", np.zeros(5), "exploration returns [0. 0. 0. 0. 0.] at step 302: it must"),
])  # fmt: skip
def test_a_schedule_that_goes_wrong_later_ends_the_run(tmp_path, option, then, line):
    with pytest.raises(PartError) as caught:
        fastdqn.train(small(tmp_path), **{option: later(1e-3, then)})
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("rate", [np.float32(1e-3), torch.tensor(1e-3), np.array(1e-3), 1])
def test_a_schedule_may_return_any_scalar(tmp_path, rate):
    run = fastdqn.train(
        small(tmp_path, final_evaluation=False),
        learning_rate_schedule=lambda steps, episodes: rate,
        exploration=lambda steps, episodes: rate,
    )
    assert run.summary["updates"] > 0
