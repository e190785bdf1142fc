"""Learners of two processes: the update is that of one learner with the whole batch."""

import functools

import numpy as np
import pytest

from fastdqn.learning.fused_learner import FusedStep
from fastdqn.replay import Batch
from helpers.learners import make_learner
from helpers.rank_learners import BETA, UPDATES, learn_alone
from helpers.ranks import Alone, run_ranks

CASES = [("scalar", False), ("scalar", True), ("quantile", False), ("categorical", True)]


@functools.cache
def learned_all() -> list[list[dict]]:
    return run_ranks("helpers.rank_learners:learn_all", CASES)


def learned(value: str, fused: bool) -> list[dict]:
    """Returns what each rank has learned in one of the cases."""
    return [of_rank[CASES.index((value, fused))] for of_rank in learned_all()]


def whole_batches(ranks: list[dict]) -> list[Batch]:
    """Returns the batches of both ranks as one, with weights by their probability in the run."""
    batches = []
    for update in range(UPDATES):
        columns = [
            np.concatenate(each)
            for each in zip(*(rank["batches"][update] for rank in ranks), strict=True)
        ]
        rows = sum(rank["sums"][update][1] for rank in ranks)
        probability = np.concatenate(
            [rank["leaves"][update] / (len(ranks) * rank["sums"][update][0]) for rank in ranks]
        )
        weight = (1 / (rows * probability)) ** BETA
        columns[Batch._fields.index("weight")] = (weight / weight.max()).astype(np.float32)
        batches.append(Batch(*columns))
    return batches


@pytest.mark.slow
@pytest.mark.parametrize(("value", "fused"), CASES)
def test_two_ranks_learn_what_one_learner_does_from_the_whole_batch(value, fused):
    ranks = learned(value, fused)
    weights, loss = learn_alone(value, fused, whole_batches(ranks))
    for rank in ranks:
        assert np.abs(rank["weights"] - weights).max() < 1e-5
    assert np.mean([rank["loss"] for rank in ranks]) == pytest.approx(loss, rel=1e-4)


@pytest.mark.slow
def test_the_weights_of_both_ranks_are_equal_to_the_last_bit():
    one, other = learned("scalar", False)
    assert one["weights"].tobytes() == other["weights"].tobytes()
    assert one["checksum"] == other["checksum"]
    assert one["batches"][0][0].tobytes() != other["batches"][0][0].tobytes()


@pytest.mark.slow
def test_importance_weights_are_divided_by_the_largest_of_all_ranks():
    ranks = learned("scalar", False)
    place = Batch._fields.index("weight")
    for update, whole in enumerate(whole_batches(ranks)):
        drawn = np.concatenate([rank["batches"][update][place] for rank in ranks])
        np.testing.assert_allclose(drawn, whole.weight, rtol=2e-5)
        assert drawn.max() == pytest.approx(1.0)


def test_a_checksum_differs_with_one_bit_of_a_weight():
    learner = make_learner()
    before = learner.checksum()
    weight = learner.online.weights.numpy().view(np.uint32)
    weight[3] ^= 1
    assert learner.checksum() != before
    weight[3] ^= 1
    assert learner.checksum() == before


def test_the_kernel_of_the_whole_update_has_no_place_for_ranks():
    learner = make_learner()
    learner.average = Alone(0).average
    with pytest.raises(ValueError, match="several ranks"):
        FusedStep(learner)
