"""NewestSampler: returns each row once, in order, for training without replay."""

import numpy as np

from fastdqn.kernels.jit import kernel
from fastdqn.replay.ring import DEAD, OPEN, Ring, row_is_valid
from fastdqn.replay.sampler import Sampler
from fastdqn.state_dict import State, StateError, take_array, take_count, take_truth


class NewestSampler(Sampler):
    """Returns the rows since the last batch, each once and in the order of completion.

    Rows join a queue when their n-step window is complete, and a draw of B takes the first B. The
    first draw skips all but the newest B + lanes * n_steps rows: that many may be due at once, or
    be missing while windows are open. Later draws skip only rows whose slot was overwritten. If
    one batch of B is drawn for every B transitions, a ring of Config's size loses none.

    Args:
        num_slots: lanes * rows of the ring.
    """

    BYTES_PER_ROW = 8  # its entry in the queue

    def __init__(self, num_slots: int):
        self._line = np.zeros(num_slots, np.int64)  # queue of absolute row ids, a circular buffer
        self._ends = np.zeros(2, np.int64)  # position of the first entry, and after the last one
        self._next = np.empty(0, np.int64)  # first row of each lane that is not in the queue
        self._begun = False  # whether any row was returned

    @property
    def nbytes(self) -> int:
        return self._line.nbytes

    @property
    def waiting(self) -> int:
        """Number of rows in the queue."""
        return int(self._ends[1] - self._ends[0])

    def follow(self, ring: Ring, n_steps: int, lanes) -> None:
        """Adds the complete rows of lanes [M] to the queue, lane by lane.

        Raises:
            ValueError: The ring has another size.
        """
        if len(self._next) != ring.num_lanes:
            self._attach(ring)
        _follow(
            np.ascontiguousarray(lanes, np.int64), self._next, self._line, self._ends,
            ring.status, ring.added, n_steps, ring.stack,
        )  # fmt: skip

    def draw(
        self, ring: Ring, n_steps: int, index: np.ndarray, weight: np.ndarray, steps: int
    ) -> None:
        """Fills index, int64[B], with absolute row ids, and weight, float32[B], with ones.

        Raises:
            RuntimeError: Fewer than B rows are in the queue; they stay in it.
        """
        most = self.waiting if self._begun else len(index) + ring.num_lanes * n_steps
        found = _draw(
            self._line, self._ends, most, ring.status, ring.added, n_steps, ring.stack, index
        )
        if not found:
            raise RuntimeError(
                f"nothing to sample: at most {self.waiting} rows were added since the last batch, "
                f"and a batch needs {len(index)}"
            )
        weight.fill(1.0)
        self._begun |= len(index) > 0

    def state(self) -> State:
        first, behind = map(int, self._ends)
        return {
            "line": self._line.copy(), "next": self._next.copy(), "first": first,
            "behind": behind, "begun": self._begun,
        }  # fmt: skip

    def load_state(self, state: State, ring: Ring, n_steps: int) -> None:
        """Loads a state dict after the rows of the ring; raises StateError naming the field."""
        line = take_array(state, "line", self._line)
        following = take_array(state, "next", ring.added)
        first, behind = take_count(state, "first"), take_count(state, "behind")
        if not 0 <= behind - first <= len(line):
            raise StateError(
                f"behind is {behind}, must be from first, {first}, to {len(line)} more"
            )
        if (following < 0).any() or (following > ring.added).any():
            raise StateError("next is larger than the number of rows added")
        self._begun = take_truth(state, "begun")
        self._attach(ring)
        self._line[:], self._next[:], self._ends[:] = line, following, (first, behind)

    def _attach(self, ring: Ring) -> None:
        if ring.num_lanes * ring.rows != len(self._line):
            raise ValueError(
                f"the sampler has {len(self._line)} slots, but the ring has {ring.num_lanes} x "
                f"{ring.rows}: create both with the same num_lanes and rows"
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
    """Whether a row is not valid yet because its window is incomplete."""
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
