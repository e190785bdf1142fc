"""CapturedPolicy uses current weights and captures each batch size."""

import numpy as np
import pytest
import torch

from fastdqn.bench.synthetic_data import random_mask, random_obs
from fastdqn.learning.captured_policy import CapturedPolicy
from fastdqn.learning.graph_capture import Graphs
from fastdqn.learning.noisy import noise_size
from fastdqn.learning.random_inputs import MEANS, LaneNoise
from helpers.capture import CPU, batches_of, learner_of
from helpers.graphs import TracedRecorder


@pytest.mark.slow
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_captured_policy_uses_the_weights_of_every_update_and_load(noisy, masked):
    learner, recorder = learner_of(noisy=noisy), TracedRecorder()
    network = learner.online.eval_alias()
    choose = CapturedPolicy(network, learner.value, CPU, Graphs(recorder, [].append))
    noise = LaneNoise(noise_size(network), CPU, seed=0)
    rng = np.random.default_rng(0)
    changed, before = 0, None
    for call in range(12):
        obs = random_obs(rng, 32, (5,), np.float32)
        mask = random_mask(rng, 32, 3) if masked else None
        draw = noise(32) if noisy else MEANS
        values = learner.value.expected(network(torch.from_numpy(obs), draw))
        if mask is not None:
            values = values.masked_fill(~torch.from_numpy(mask), -torch.inf)
        chosen = choose(obs, mask, draw)
        np.testing.assert_array_equal(chosen, values.argmax(1))
        changed += before is not None and (before != chosen).any()
        before = chosen
        learner.update(*batches_of(1, call))
        if call == 6:
            learner.online.weights.neg_()
    assert changed
    assert recorder.recorded == 1


def test_each_batch_size_is_captured_once_up_to_a_limit():
    learner, recorder, said = learner_of(), TracedRecorder(), []
    network = learner.online.eval_alias()
    choose = CapturedPolicy(network, learner.value, CPU, Graphs(recorder, said.append))
    obs = random_obs(np.random.default_rng(0), 20, (5,), np.float32)
    whole = choose(obs, None, MEANS)
    assert whole is not None
    for lanes in (1, 2, 3, 2, 1):
        np.testing.assert_array_equal(choose(obs[:lanes], None, MEANS), whole[:lanes])
    assert recorder.recorded == 4
    assert said == [
        f"acting is captured again, for 1 x [{lanes}, 5], a shape that was not captured yet"
        for lanes in (1, 2, 3)
    ]
    answers = [choose(obs[:lanes], None, MEANS) for lanes in range(4, 12)]
    assert [each is None for each in answers] == [False] * 4 + [True] * 4
