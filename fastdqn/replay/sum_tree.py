"""SumTree: many positive numbers, changed and drawn in proportion to their size in log time.

An implicit binary heap in one array: node i is the sum of nodes 2i and 2i + 1, node 1 the root,
and the leaves are its second half. It need not be a power of two: then the leaves lie in the two
lowest levels, and the tree takes no more than 16 bytes a leaf.

Both kernels go through the tree level by level with the whole batch, not with one number after
the other: the loads of a level wait for none of each other, so that they miss the caches together.
"""

import numpy as np

from fastdqn.kernels.jit import kernel


class SumTree:
    """num_slots numbers, all 0 at first; parents are always exactly the sum of their children.

    nodes  [2 * num_slots] float64, node 0 unused; write leaves through set() alone
    Raises ValueError where there are no slots.
    """

    BYTES_PER_SLOT = 16

    def __init__(self, num_slots: int):
        if num_slots < 1:
            raise ValueError(f"num_slots is {num_slots}: a sum tree needs at least 1")
        self.nodes = np.zeros(2 * num_slots, np.float64)

    @property
    def leaves(self) -> np.ndarray:
        """The numbers themselves, by slot: a view, for reading."""
        return self.nodes[len(self.nodes) // 2 :]

    @property
    def total(self) -> float:
        return float(self.nodes[1])

    @property
    def nbytes(self) -> int:
        return self.nodes.nbytes

    def set(self, slots, leaves) -> None:
        """Write leaves [B] float64, at least 0, to slots [B] int64; of equal slots the last wins.

        Raises ValueError where a slot does not exist or a leaf is no finite number from 0.
        """
        slots, leaves = np.ascontiguousarray(slots, np.int64), np.asarray(leaves, np.float64)
        if len(slots) and not 0 <= slots.min() <= slots.max() < len(self.leaves):
            raise ValueError(f"slots are outside 0 to {len(self.leaves) - 1}")
        if not (np.isfinite(leaves) & (leaves >= 0)).all():
            raise ValueError("leaves must be finite and at least 0")
        self.leaves[slots] = leaves
        nodes = slots + len(self.leaves)
        sum_above(self.nodes, nodes, len(nodes))

    def find(self, targets: np.ndarray) -> np.ndarray:
        """The slots where the running sum of the leaves, from left to right, exceeds targets [B].

        returns  [B] int64, never a leaf of 0, whatever rounding does to a target near total
        Raises RuntimeError where all leaves are 0.
        """
        if not self.total > 0.0:
            raise RuntimeError("nothing to find: all leaves are 0")
        slots = np.empty(len(targets), np.int64)
        find_many(self.nodes, np.array(targets, np.float64), slots)
        return slots

    def rebuild(self, leaves: np.ndarray) -> None:
        """Take all leaves [num_slots] at once; the tree is that of any other way to get there."""
        self.leaves[:] = leaves
        _sum_all(self.nodes)


@kernel
def sum_above(nodes, touched, count):
    """Recompute all that lies above the nodes touched[:count], which is used up.

    A level at a time, so that every parent is a sum of two finished children. The path of a leaf
    of the lowest level is one longer than of one above it: where both meet, it comes last.
    """
    while count > 0:
        kept, previous = 0, 0
        for i in range(count):
            node = touched[i] >> 1
            # Neighbours in the batch are often neighbours in the tree; above the root is node 0.
            if node != previous and node > 0:
                nodes[node] = nodes[2 * node] + nodes[2 * node + 1]
                touched[kept] = node
                kept += 1
                previous = node
        count = kept


@kernel
def find_many(nodes, targets, slots):
    """Replace slots [B] by where targets [B] lie, from 0 to the root's sum; targets are used up.

    Right is taken only where something is there: a target that rounding has pushed to the sum of
    a node or beyond stays on the last positive leaf. The root must be positive.
    """
    num_slots = len(nodes) // 2
    slots[:] = 1
    first = 1  # of the level that the batch is on
    while 2 * first <= num_slots:
        for k in range(len(slots)):
            _descend(nodes, targets, slots, k)
        first *= 2
    for k in range(len(slots)):
        if slots[k] < num_slots:  # the leaves of the lowest level, where there are two
            _descend(nodes, targets, slots, k)
        slots[k] -= num_slots


@kernel
def _descend(nodes, targets, slots, k):
    # Without a branch, which would be guessed wrong every other time; and unsigned, for Numba
    # asks of a signed index at every load whether it counts from the end.
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
