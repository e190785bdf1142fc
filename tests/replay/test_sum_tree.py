"""The sum tree against a list, at sizes that are powers of two and others."""

import numpy as np
import pytest

from fastdqn.replay.sum_tree import SumTree
from helpers.oracle_priorities import TwinTree

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 100, 1000, 1023, 1025]


def filled(leaves) -> SumTree:
    tree = SumTree(len(leaves))
    tree.rebuild(np.array(leaves, np.float64))
    return tree


def assert_sums(tree: SumTree) -> None:
    """Every parent is the sum of its children, to the last bit."""
    nodes = tree.nodes[2:].reshape(-1, 2).sum(axis=1)
    np.testing.assert_array_equal(tree.nodes[1 : len(tree.leaves)], nodes)


@pytest.mark.parametrize("num_slots", SIZES)
def test_set_and_find_equal_the_slow_twin(num_slots):
    rng = np.random.default_rng(num_slots)
    tree, twin = SumTree(num_slots), TwinTree(num_slots)
    for _ in range(30):
        slots = rng.integers(0, num_slots, rng.integers(1, 40))  # duplicates too
        leaves = rng.integers(0, 5, len(slots)) * rng.integers(0, 2)  # whole: sums are exact
        tree.set(slots, leaves)
        twin.set(slots, leaves)
        np.testing.assert_array_equal(tree.leaves, twin.leaves)
        assert tree.total == twin.leaves.sum()
        assert_sums(tree)
        if tree.total:
            targets = np.arange(0, tree.total, 0.5)
            np.testing.assert_array_equal(tree.find(targets), twin.find(targets))


@pytest.mark.parametrize("num_slots", [7, 1000, 4096])
def test_the_root_does_not_drift_from_the_sum_of_the_leaves(num_slots):
    rng = np.random.default_rng(1)
    tree = SumTree(num_slots)
    for _ in range(1000):
        slots = rng.integers(0, num_slots, 64)
        tree.set(slots, rng.exponential(size=64) * 10.0 ** rng.integers(-9, 9, 64))
    np.testing.assert_allclose(tree.total, tree.leaves.sum(), rtol=1e-9)
    assert_sums(tree)
    tree.set(np.arange(num_slots), np.zeros(num_slots))
    assert not tree.nodes.any()  # a tree kept by differences would hold the errors of them


def test_of_equal_slots_the_last_leaf_stays():
    tree = SumTree(5)
    tree.set([3, 1, 3], [1.0, 2.0, 4.0])
    assert tree.leaves.tolist() == [0, 2, 0, 4, 0]
    assert tree.total == 6.0


def test_an_empty_set_changes_nothing():
    tree = filled([1.0, 2.0])
    tree.set([], [])
    assert tree.nodes.tolist() == [0, 3, 1, 2]


@pytest.mark.parametrize("num_slots", SIZES)
def test_a_leaf_of_zero_is_never_found(num_slots):
    rng = np.random.default_rng(num_slots)
    tiny = np.nextafter(0.0, 1.0)
    for sparse in (0.0, 0.5, 0.95):
        leaves = rng.choice([tiny, 1e-310, 1e-6, 0.1, 1.0, 1e12, 1e38], num_slots)
        leaves[rng.random(num_slots) < sparse] = 0.0
        leaves[rng.integers(num_slots)] = 1 / 3
        tree = filled(leaves)
        targets = rng.random(500) * tree.total
        edges = [0.0, tiny, np.nextafter(tree.total, 0.0), tree.total, 2 * tree.total]
        inner = np.cumsum(tree.leaves)[:-1]
        around = np.concatenate([np.nextafter(inner, 0.0), inner, np.nextafter(inner, np.inf)])
        for wanted in (targets, np.array(edges), around):
            assert (tree.leaves[tree.find(wanted)] > 0.0).all()


def test_denormal_leaves_are_found_in_proportion():
    tiny = np.nextafter(0.0, 1.0)
    tree = filled([0.0, tiny, 0.0, 3 * tiny, 0.0])
    assert tree.total == 4 * tiny
    found = tree.find(np.array([0.0, 1.0, 2.0, 3.0]) * tiny)
    assert sorted(found.tolist()) == [1, 3, 3, 3]


def test_the_tree_does_not_depend_on_the_order_of_updates():
    rng = np.random.default_rng(3)
    tree = SumTree(77)
    for _ in range(50):
        tree.set(rng.integers(0, 77, 20), rng.exponential(size=20))
    assert filled(tree.leaves).nodes.tobytes() == tree.nodes.tobytes()


def test_targets_are_not_changed():
    targets = np.array([0.5, 2.5])
    filled([1.0, 2.0]).find(targets)
    assert targets.tolist() == [0.5, 2.5]


def test_a_slot_takes_sixteen_bytes():
    for num_slots in (4, 1000, 1025):
        assert SumTree(num_slots).nbytes == num_slots * SumTree.BYTES_PER_SLOT


def test_invalid_leaves_and_slots_are_rejected():
    tree = filled([1.0, 2.0])
    for slot in (-1, 2):
        with pytest.raises(ValueError, match="slots must be from 0 to 1"):
            tree.set([slot], [1.0])
    for leaf in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            tree.set([0], [leaf])
    assert tree.nodes.tolist() == [0, 3, 1, 2]
    with pytest.raises(ValueError, match="num_slots is 0"):
        SumTree(0)
    with pytest.raises(RuntimeError, match="all leaves are 0"):
        SumTree(3).find(np.array([0.0]))
