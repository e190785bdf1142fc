"""PrioritizedSampler: draws rows in proportion to their last TD error.

Source: Schaul et al. 2016, "Prioritized Experience Replay" (arXiv 1511.05952), the proportional
variant.
"""

from collections.abc import Callable

import numpy as np

from fastdqn.kernels.jit import kernel
from fastdqn.kernels.rng import seed_state, uniform
from fastdqn.replay.ring import Ring, row_is_valid
from fastdqn.replay.sampler import Sampler
from fastdqn.replay.sum_tree import SumTree, find_many, sum_above
from fastdqn.state_dict import State, StateError, take_array, take_generator, take_number

# The small positive constant of section 3.3, so that rows without error can be drawn. The paper
# gives no value. Ours, untuned: far below any relevant TD error.
_LEAST_PRIORITY = 1e-6
# A sum of any number of these is finite in float64, and losses are float32.
_LARGEST_PRIORITY = float(np.finfo(np.float32).max)
# Leaves changed before their parents are recomputed together. Ours, untuned.
_CHUNK = 1024


class PrioritizedSampler(Sampler):
    """Draws row i with probability p_i^priority_exponent / sum_k p_k^priority_exponent.

    p is |priority| + 1e-6. The leaf of a row is positive exactly while the row is valid. A new row
    gets the largest leaf so far, so that it is drawn soon (algorithm 1, line 6).

    Args:
        num_slots: lanes * rows of the ring.
        priority_exponent: alpha, in [0, 1]; 0 is uniform sampling.
        importance_exponent: beta as a function of environment steps; 1 corrects the full bias.
        seed: Seed of the sampler's generator; equal seeds and calls give equal draws.
        largest_of_ranks: Returns the largest of a number over the processes of a run, each of which
            samples a part of the batch from its own rows.
    """

    wants_priorities = True
    BYTES_PER_ROW = SumTree.BYTES_PER_SLOT

    def __init__(
        self,
        num_slots: int,
        priority_exponent: float,
        importance_exponent: Callable[[int], float],
        seed: int = 0,
        largest_of_ranks: Callable[[float], float] = lambda number: number,
    ):
        # Above 1 the leaf of a row without error would underflow, and the row would be lost.
        if not 0.0 <= priority_exponent <= 1.0:
            raise ValueError(f"priority_exponent is {priority_exponent}, must be in [0, 1]")
        self.tree = SumTree(num_slots)
        self.priority_exponent = float(priority_exponent)
        self.importance_exponent = importance_exponent
        self._largest_of_ranks = largest_of_ranks
        self.largest = 1.0  # the largest leaf so far
        self.rng = seed_state(seed)
        self._seen = np.empty(0, np.int64)  # rows added to each lane as of the last follow()
        self._touched = np.empty(_CHUNK, np.int64)
        self._targets = np.empty(0, np.float64)

    @property
    def nbytes(self) -> int:
        return self.tree.nbytes

    def follow(self, ring: Ring, n_steps: int, lanes) -> None:
        """Updates the leaves of lanes [M] after a change of their rows.

        Raises:
            ValueError: The ring has another size.
        """
        if len(self._seen) != ring.num_lanes:
            self._attach(ring)
        _follow(
            np.ascontiguousarray(lanes, np.int64), self._seen, self.tree.nodes, self._touched,
            self.largest, ring.status, ring.added, n_steps, ring.stack,
        )  # fmt: skip

    def draw(
        self, ring: Ring, n_steps: int, index: np.ndarray, weight: np.ndarray, steps: int
    ) -> None:
        """Fills index, int64[B], with absolute row ids and weight, float32[B], with their weights.

        One row is drawn from each of B equal parts of the sum of leaves (appendix B.2.1). Weights
        are (1 / probability)^beta, divided by the largest of the batch (section 3.4). With ranks
        the probability in the whole run is that in this sampler over their number, and the batch
        is that of all ranks.

        Args:
            ring: The ring.
            n_steps: Length of a window.
            index: Output.
            weight: Output.
            steps: Environment steps so far.

        Raises:
            RuntimeError: No row is valid; one complete window is needed first.
        """
        if len(self._targets) < len(index):
            self._targets = np.empty(len(index), np.float64)
        exponent = float(self.importance_exponent(steps))
        rarest = _draw(
            self.rng, self.tree.nodes, ring.added, ring.rows, exponent,
            index, weight, self._targets,
        )  # fmt: skip
        if rarest > 0.0:
            rarest_of_ranks = self._largest_of_ranks(rarest)
            if rarest != rarest_of_ranks:
                weight *= np.float32((rarest / rarest_of_ranks) ** exponent)
        elif len(index):
            raise RuntimeError(
                f"nothing to sample: none of {len(ring)} rows has a complete {n_steps}-step window"
            )

    def update(self, ring: Ring, n_steps: int, index: np.ndarray, priority: np.ndarray) -> None:
        """Sets the priorities [B] of the rows index [B] that are still valid.

        The sign is ignored. Of equal rows the last one counts. A priority that is not finite is
        ignored: one NaN would spread to the root and make every draw meaningless. The loss that it
        came from is reported elsewhere.

        Raises:
            ValueError: The shapes differ.
        """
        index = np.ascontiguousarray(index, np.int64)
        priority = np.ascontiguousarray(priority, np.float64)
        if index.shape != priority.shape:
            raise ValueError(
                f"priority has shape {priority.shape}, must have the shape of index, {index.shape}"
            )
        largest = _update(
            index, priority, self.tree.nodes, self._touched, self.priority_exponent,
            self.largest, ring.status, ring.added, n_steps, ring.stack,
        )  # fmt: skip
        self.largest = float(largest)

    def state(self) -> State:
        return {
            "rng": self.rng.copy(),
            "leaves": self.tree.leaves.copy(),
            "largest": self.largest,
        }

    def load_state(self, state: State, ring: Ring, n_steps: int) -> None:
        """Loads a state dict after the rows of the ring; raises StateError naming the field."""
        rng = take_generator(state, "rng", self.rng)
        leaves = take_array(state, "leaves", self.tree.leaves)
        largest = take_number(state, "largest")
        if not 1.0 <= largest <= _LARGEST_PRIORITY:
            raise StateError(f"largest is {largest}, must be from 1 to {_LARGEST_PRIORITY}")
        in_range = (leaves >= 0.0) & (leaves <= largest)  # false for NaN
        if not in_range.all():
            bad = leaves[~in_range][0]
            raise StateError(f"leaves has {bad}, must be from 0 to largest, {largest}")
        self._attach(ring)
        valid = np.empty(len(leaves), np.bool_)
        _mark_valid(ring.status, ring.added, n_steps, ring.stack, valid)
        if ((leaves > 0.0) != valid).any():
            slot = np.flatnonzero((leaves > 0.0) != valid)[0]
            must = "more than 0, its row is valid" if valid[slot] else "0, its row is not valid"
            raise StateError(f"leaves has {leaves[slot]} at slot {slot}, must be {must}")
        self.rng[:], self.largest, self._seen[:] = rng, largest, ring.added
        self.tree.rebuild(leaves)

    def _attach(self, ring: Ring) -> None:
        if ring.num_lanes * ring.rows != len(self.tree.leaves):
            raise ValueError(
                f"the sampler has {len(self.tree.leaves)} slots, but the ring has "
                f"{ring.num_lanes} x {ring.rows}: create both with the same num_lanes and rows"
            )
        self._seen = np.zeros(ring.num_lanes, np.int64)


@kernel
def _put(nodes, node, leaf, touched, count):
    """Writes a leaf and records its node; returns the number of recorded nodes."""
    nodes[node] = leaf
    touched[count] = node
    if count + 1 < len(touched):
        return count + 1
    sum_above(nodes, touched, count + 1)
    return 0


@kernel
def _follow(lanes, seen, nodes, touched, largest, status, added, n_steps, stack):
    rows = status.shape[1]
    count = 0
    for lane in lanes:
        base = len(nodes) // 2 + lane * rows
        oldest = max(0, added[lane] - rows)
        # Rows whose stack reaches beyond the oldest row are no longer valid.
        for row in range(oldest, min(oldest + stack - 1, added[lane])):
            if nodes[base + row % rows] != 0.0:
                count = _put(nodes, base + row % rows, 0.0, touched, count)
        # A window that was incomplete included the head, so it began less than n rows before it.
        for row in range(max(oldest, seen[lane] - n_steps), added[lane]):
            node = base + row % rows
            leaf = 0.0
            if row_is_valid(status, added, lane, row, n_steps, stack):
                entered = row < seen[lane] and nodes[node] > 0.0
                leaf = nodes[node] if entered else largest
            if leaf != nodes[node]:
                count = _put(nodes, node, leaf, touched, count)
        seen[lane] = added[lane]
    sum_above(nodes, touched, count)


@kernel
def _draw(rng, nodes, added, rows, exponent, index, weight, targets):
    """Returns the largest 1 / probability of the drawn rows, or 0 if none can be drawn."""
    size, num_slots, num_lanes = len(index), len(nodes) // 2, len(added)
    if not nodes[1] > 0.0 or size == 0:
        return 0.0
    for k in range(size):
        targets[k] = (k + uniform(rng)) / size * nodes[1]
    find_many(nodes, targets, index)
    smallest = np.inf
    for k in range(size):
        targets[k] = nodes[num_slots + index[k]]
        smallest = min(smallest, targets[k])
    for k in range(size):
        weight[k] = np.float32(smallest / targets[k]) ** np.float32(exponent)
        lane = index[k] // rows
        head = added[lane] - 1
        # The newest row in this slot.
        index[k] = (head - (head - index[k] % rows) % rows) * num_lanes + lane
    return nodes[1] / smallest


@kernel
def _update(
    index, priority, nodes, touched, exponent, largest, status, added, n_steps, stack
):  # fmt: skip
    num_lanes, rows = status.shape
    count = 0
    for i in range(len(index)):
        row, lane = divmod(index[i], num_lanes)
        size = abs(priority[i])
        # The comparison is false for NaN.
        if size <= _LARGEST_PRIORITY and row_is_valid(status, added, lane, row, n_steps, stack):
            leaf = (size + _LEAST_PRIORITY) ** exponent
            largest = max(largest, leaf)
            node = len(nodes) // 2 + lane * rows + row % rows
            count = _put(nodes, node, leaf, touched, count)
    sum_above(nodes, touched, count)
    return largest


@kernel
def _mark_valid(status, added, n_steps, stack, valid):
    num_lanes, rows = status.shape
    valid[:] = False
    for lane in range(num_lanes):
        for row in range(max(0, added[lane] - rows), added[lane]):
            slot = lane * rows + row % rows
            valid[slot] = row_is_valid(status, added, lane, row, n_steps, stack)
