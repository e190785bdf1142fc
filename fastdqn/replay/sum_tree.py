"""SumTree: stores nonnegative numbers and draws in proportion to them in logarithmic time.

It is an implicit binary heap in one array: node i is the sum of nodes 2i and 2i + 1, node 1 is the
root, and the second half holds the leaves. If their number is not a power of two, the leaves are on
the two lowest levels, so that the tree needs 16 bytes for each leaf.

Both kernels process the whole batch level by level. The loads of one level do not depend on each
other, so their cache misses overlap.
"""

import numpy as np

from fastdqn.kernels.jit import kernel


class SumTree:
    """num_slots numbers, initially 0, and their sums; parents are exact sums of their children.

    Write leaves through set() only.

    Attributes:
        nodes: float64[2 * num_slots]; node 0 is unused.

    Raises:
        ValueError: num_slots is less than 1.
    """

    BYTES_PER_SLOT = 16

    def __init__(self, num_slots: int):
        if num_slots < 1:
            raise ValueError(f"num_slots is {num_slots}, must be at least 1")
        self.nodes = np.zeros(2 * num_slots, np.float64)

    @property
    def leaves(self) -> np.ndarray:
        """The numbers by slot, as a read-only view by convention."""
        return self.nodes[len(self.nodes) // 2 :]

    @property
    def total(self) -> float:
        return float(self.nodes[1])

    @property
    def nbytes(self) -> int:
        return self.nodes.nbytes

    def set(self, slots, leaves) -> None:
        """Writes leaves, float64[B], to slots, int64[B]; of equal slots the last one counts.

        Raises:
            ValueError: A slot does not exist, or a leaf is negative or not finite.
        """
        slots, leaves = np.ascontiguousarray(slots, np.int64), np.asarray(leaves, np.float64)
        if len(slots) and not 0 <= slots.min() <= slots.max() < len(self.leaves):
            raise ValueError(f"slots must be from 0 to {len(self.leaves) - 1}")
        if not (np.isfinite(leaves) & (leaves >= 0)).all():
            raise ValueError("leaves must be finite and at least 0")
        self.leaves[slots] = leaves
        nodes = slots + len(self.leaves)
        sum_above(self.nodes, nodes, len(nodes))

    def find(self, targets: np.ndarray) -> np.ndarray:
        """Returns int64[B], the slots where the cumulative sum of leaves exceeds targets [B].

        A leaf of 0 is never returned, even if rounding moves a target to the total.

        Raises:
            RuntimeError: All leaves are 0.
        """
        if not self.total > 0.0:
            raise RuntimeError("nothing to find: all leaves are 0")
        slots = np.empty(len(targets), np.int64)
        find_many(self.nodes, np.array(targets, np.float64), slots)
        return slots

    def rebuild(self, leaves: np.ndarray) -> None:
        """Sets all leaves [num_slots]; the nodes are equal to those after any other updates."""
        self.leaves[:] = leaves
        _sum_all(self.nodes)


@kernel
def sum_above(nodes, touched, count):
    """Recomputes all nodes above touched[:count], which is overwritten.

    It proceeds by level, so that both children of a parent are final. Leaves may be on two levels;
    where a shorter and a longer path meet, the longer one writes last.
    """
    while count > 0:
        kept, previous = 0, 0
        for i in range(count):
            node = touched[i] >> 1
            # Adjacent entries of a batch often have the same parent; the root's parent is node 0.
            if node != previous and node > 0:
                nodes[node] = nodes[2 * node] + nodes[2 * node + 1]
                touched[kept] = node
                kept += 1
                previous = node
        count = kept


@kernel
def find_many(nodes, targets, slots):
    """Sets slots [B] to the leaves at targets [B], from 0 to the root's sum; overwrites targets.

    The right child is taken only if it is positive. A target that rounding moves to the sum of a
    node or beyond therefore ends on the last positive leaf. The root must be positive.
    """
    num_slots = len(nodes) // 2
    slots[:] = 1
    first = 1  # first node of the current level
    while 2 * first <= num_slots:
        for k in range(len(slots)):
            _descend(nodes, targets, slots, k)
        first *= 2
    for k in range(len(slots)):
        if slots[k] < num_slots:  # leaves on the lowest level, if there are two levels
            _descend(nodes, targets, slots, k)
        slots[k] -= num_slots


@kernel
def _descend(nodes, targets, slots, k):
    # Branch-free, since every other branch would be mispredicted. Unsigned, since Numba checks
    # signed indices for negative values at every load.
    one = np.uint64(1)
    child = np.uint64(slots[k]) << one
    left = nodes[child]
    right = np.uint64(targets[k] >= left) & np.uint64(nodes[child + one] > 0.0)
    targets[k] -= left * right
    slots[k] = child + right


@kernel
def _sum_all(nodes):
    for node in range(len(nodes) // 2 - 1, 0, -1):
        nodes[node] = nodes[2 * node] + nodes[2 * node + 1]
