"""Results of parts of a user's own: what breaks an interface is found, in one line."""

import re
import sys
from typing import Any

import numpy as np
import pytest
import torch

import fastdqn
from fastdqn.checkpoints.network_weights import load_weights, save_weights
from fastdqn.learning.bootstrap_targets import Backup, Bootstrap
from fastdqn.learning.optimizer import Optimizer
from fastdqn.learning.value import ScalarValue
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
    ("learning_rate_schedule", -1.0, "learning_rate_schedule returns -1.0"),
    ("learning_rate_schedule", float("nan"), "learning_rate_schedule returns nan"),
    ("exploration", float("nan"), "exploration returns nan"),
    ("exploration", 1.5, "exploration returns 1.5"),
    ("exploration", np.zeros(5), "exploration returns [0. 0. 0. 0. 0.]"),
])  # fmt: skip
def test_a_schedule_that_goes_wrong_later_ends_the_run(tmp_path, option, then, line):
    part: dict[str, Any] = {option: later(1e-3, then)}
    with pytest.raises(PartError) as caught:
        fastdqn.train(small(tmp_path), **part)
    assert re.match(
        re.escape(line) + r" at step 30[0-3]: it must return a number", str(caught.value)
    )


@pytest.mark.parametrize("rate", [np.float32(1e-3), torch.tensor(1e-3), np.array(1e-3), 1])
def test_a_schedule_may_return_any_scalar(tmp_path, rate):
    run = fastdqn.train(
        small(tmp_path, final_evaluation=False),
        learning_rate_schedule=lambda steps, episodes: rate,
        exploration=lambda steps, episodes: rate,
    )
    assert run.summary["updates"] > 0


class Plain(Optimizer):
    """Gradient descent, with a tensor that subclasses treat wrongly."""

    def __init__(self, weights, gradient, learning_rate):
        self.weights, self.gradient = weights, gradient
        self.learning_rate = torch.tensor(learning_rate)
        self.average = torch.zeros_like(weights)

    def step(self):
        self.weights.sub_(self.learning_rate * self.gradient)

    def tensors(self):
        return {"learning_rate": self.learning_rate, "average": self.average}


class Replacing(Plain):
    def step(self):
        super().step()
        self.average = self.average * 0.9 + self.gradient


class Growing(Plain):
    def tensors(self):
        more = {"more": self.more} if hasattr(self, "more") else {}
        return {**super().tensors(), **more}

    def step(self):
        super().step()
        self.more = torch.zeros(3)


class Whole(Plain):
    def __init__(self, weights, gradient, learning_rate):
        super().__init__(weights, gradient, learning_rate)
        self.learning_rate = torch.tensor(1)


def returning(result):
    class Returning(Plain):
        def tensors(self):
            return result

    return Returning


class Changed(ScalarValue):
    """A scalar value whose attributes and results are replaced."""

    def __init__(self, attributes=None, loss=None, expected=None):
        super().__init__()
        self.__dict__ |= attributes or {}
        self.of_loss, self.of_expected = loss, expected

    def loss(self, output, action, target, draw):
        result = super().loss(output, action, target, draw)
        return self.of_loss(result) if self.of_loss else result

    def expected(self, output):
        return self.of_expected(output) if self.of_expected else output


class Immovable(ScalarValue):
    def to(self, device):  # pyright: ignore[reportIncompatibleMethodOverride]
        return None


class Undeclared(Backup):
    def __call__(self, queries):
        return Bootstrap(queries.online_next().softmax(1))


class Overwriting(torch.nn.Module):
    def forward(self, obs):
        return obs.fill_(1.0)


def leave():
    sys.exit(4)


@pytest.mark.parametrize(("option", "part", "line"), [
    ("optimizer", Replacing, "Replacing.tensors() returns another 'average' after a step: all"),
    ("optimizer", Growing, "Growing.tensors() returns another 'more' after a step: all"),
    ("optimizer", Whole, f"optimizer '{__name__}:Whole' has a learning_rate of torch.int64 []: it"),
    ("optimizer", returning([]), "optimizer returning.<locals>.Returning returns a list from"),
    ("optimizer", returning({"t": 3}), "optimizer returning.<locals>.Returning returns t of type"),
    ("optimizer", returning({"a b": torch.zeros(1)}),
     "optimizer returning.<locals>.Returning names a tensor 'a b': use letters, digits"),
    ("optimizer", returning({"b": torch.zeros(1, dtype=torch.bfloat16)}),
     "optimizer returning.<locals>.Returning returns b of torch.bfloat16, which cannot be saved"),
    ("value", Changed({"outputs_per_action": 0}), "value Changed has outputs_per_action 0: it"),
    ("value", Changed({"outputs_per_action": "3"}), "value Changed has outputs_per_action '3': it"),
    ("value", Changed({"bounds": 5}), "value Changed has bounds 5: they must be None or two"),
    ("value", Changed({"bounds": (1.0, float("nan"))}), "value Changed has bounds (1.0, nan): the"),
    ("value", Immovable(), "Immovable.to() returns None: it must return the value"),
    ("value", Changed(loss=lambda r: r._replace(loss=r.loss.mean())),
     "Changed.loss() returns the loss torch.float32 [], must be float32 [16]"),
    ("value", Changed(loss=lambda r: r._replace(loss=r.loss.double())),
     "Changed.loss() returns the loss torch.float64 [16], must be float32 [16]"),
    ("value", Changed(loss=lambda r: r._replace(priority=r.priority[:5])),
     "Changed.loss() returns the priority torch.float32 [5], must be float32 [16]"),
    ("value", Changed(expected=lambda output: output[:, :1]),
     "Changed.expected() returns [4, 1], must return [4, 2], one value for each action"),
    ("loss", lambda prediction, target: (prediction - target).square()[:3],
     "ScalarValue.loss() returns the loss torch.float32 [3], must be float32 [16]"),
    ("backup", Undeclared(), "Undeclared calls online_next() and does not declare it: set"),
    ("torso", Overwriting(), "the network modifies the observations that it receives: a torso"),
    ("torso", f"{__name__}:leave", f"torso '{__name__}:leave' cannot be made: SystemExit: 4"),
])  # fmt: skip
def test_a_part_that_breaks_its_interface_is_one_line_and_leaves_no_folder(
    tmp_path, option, part, line
):
    with pytest.raises(fastdqn.ConfigError) as caught:
        fastdqn.train(small(tmp_path), **{option: part})
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(line)
    assert not (tmp_path / "run").exists()


def test_a_weights_file_cannot_ask_for_a_huge_value_by_an_argument(tmp_path):
    run = fastdqn.train(small(tmp_path, value="quantile", num_quantiles=4))
    path = run.folder / "policy.safetensors"
    arrays, description = load_weights(path)
    description["part_kwargs"] = {"value.num_quantiles": 1 << 40}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_weights(path, tensors, description)
    with pytest.raises(ValueError, match="num_quantiles is 1099511627776: it must be a number"):
        fastdqn.load_policy(path)
