"""NewestSampler: no replay, each row once and in the order in which their windows completed."""

import numpy as np

from fastdqn.kernels.jit import kernel
from fastdqn.replay.ring import DEAD, OPEN, Ring, row_is_valid
from fastdqn.state_dict import State, StateError, take_array, take_count, take_truth


class NewestSampler:
    """Hands out what has come since the last batch, none of it twice, none before another.

    num_slots  lanes * rows of the ring it is for

    Rows wait in line from the moment their window is complete, and a draw of B takes the first B.
    The first of all draws passes over what is in front of the last B + lanes * n_steps: that much
    may be due at once, or be missing while windows are open. From then on each row is handed out,
    unless its slot was overwritten before: where a batch of B is drawn for every B transitions, a
    ring of Config's size without replay keeps all that wait.
    """

    wants_priorities = False
    BYTES_PER_ROW = 8  # its place in the line

    def __init__(self, num_slots: int):
        self._line = np.zeros(num_slots, np.int64)  # absolute row ids, at their place % num_slots
        self._ends = np.zeros(2, np.int64)  # the first place that waits, and that behind the last
        self._next = np.empty(0, np.int64)  # of each lane, the first row that is not in line yet
        self._begun = False  # whether any row was handed out

    @property
    def nbytes(self) -> int:
        return self._line.nbytes

    @property
    def waiting(self) -> int:
        """Rows in line."""
        return int(self._ends[1] - self._ends[0])

    def follow(self, ring: Ring, n_steps: int, lanes) -> None:
        """Put the rows of lanes [M] that have become complete in line, lane by lane.

        Raises ValueError where the ring is of another size.
        """
        if len(self._next) != ring.num_lanes:
            self._meet(ring)
        _follow(
            np.ascontiguousarray(lanes, np.int64), self._next, self._line, self._ends,
            ring.status, ring.added, n_steps, ring.stack,
        )  # fmt: skip

    def draw(
        self, ring: Ring, n_steps: int, index: np.ndarray, weight: np.ndarray, steps: int
    ) -> None:
        """Fill index [B] int64 with absolute row ids, and weight [B] float32 with ones.

        Raises RuntimeError where fewer than B are in line; they stay there.
        """
        most = self.waiting if self._begun else len(index) + ring.num_lanes * n_steps
        found = _draw(
            self._line, self._ends, most, ring.status, ring.added, n_steps, ring.stack, index
        )
        if not found:
            raise RuntimeError(
                f"nothing to sample: {self.waiting} rows at most have come since the last batch, "
                f"and it takes {len(index)}"
            )
        weight.fill(1.0)
        self._begun |= len(index) > 0

    def update(self, ring: Ring, n_steps: int, index: np.ndarray, priority: np.ndarray) -> None:
        """Priorities mean nothing to rows that are not drawn again."""

    def state(self) -> State:
        first, behind = map(int, self._ends)
        return {
            "line": self._line.copy(), "next": self._next.copy(), "first": first,
            "behind": behind, "begun": self._begun,
        }  # fmt: skip

    def load_state(self, state: State, ring: Ring, n_steps: int) -> None:
        """Go on from a state, the ring's rows being there. Raises StateError naming the field."""
        line = take_array(state, "line", self._line)
        following = take_array(state, "next", ring.added)
        first, behind = take_count(state, "first"), take_count(state, "behind")
        if not 0 <= behind - first <= len(line):
            raise StateError(f"behind is {behind}: first, {first}, to {len(line)} more expected")
        if (following < 0).any() or (following > ring.added).any():
            raise StateError("next is beyond the rows that the lanes had")
        self._begun = take_truth(state, "begun")
        self._meet(ring)
        self._line[:], self._next[:], self._ends[:] = line, following, (first, behind)

    def _meet(self, ring: Ring) -> None:
        if ring.num_lanes * ring.rows != len(self._line):
            raise ValueError(
                f"the sampler has {len(self._line)} slots, the ring {ring.num_lanes} x "
                f"{ring.rows}: make both with the same lanes and rows"
            )
        self._next = np.zeros(ring.num_lanes, np.int64)


@kernel
def _follow(lanes, following, line, ends, status, added, n_steps, stack):
    num_lanes, rows = status.shape
    for lane in lanes:
        row = max(following[lane], added[lane] - rows)
        while row < added[lane]:
            if row_is_valid(status, added, lane, row, n_steps, stack):
                line[ends[1] % len(line)] = row * num_lanes + lane
                ends[1] += 1
                ends[0] = max(ends[0], ends[1] - len(line))
            elif status[lane, row % rows] == OPEN or _waits(status, added, lane, row, n_steps):
                break
            row += 1
        following[lane] = row


@kernel
def _waits(status, added, lane, row, n_steps):
    """Whether a row that is not valid will be: alive, with an outcome missing in its window."""
    return status[lane, row % status.shape[1]] != DEAD and row + n_steps >= added[lane]


@kernel
def _draw(line, ends, most, status, added, n_steps, stack, index):
    place = max(ends[0], ends[1] - most)
    found = 0
    while found < len(index) and place < ends[1]:
        row, lane = divmod(line[place % len(line)], len(added))
        if row_is_valid(status, added, lane, row, n_steps, stack):
            index[found] = row * len(added) + lane
            found += 1
        place += 1
    if 0 < len(index) == found:
        ends[0] = place
    return found == len(index)
