"""Ring: the rows of each lane, with actions, rewards and episode boundaries.

A lane is the part of the ring that belongs to one environment. Row t keeps the action taken at
obs_t and its outcome. The observation after an episode end is a row too, marked dead. A dead row
starts no window, but is the next_obs of the row before it. So next_obs is always a later row and
needs no memory of its own.
"""

import numpy as np

from fastdqn.kernels.jit import kernel

# The status of a row: OPEN (outcome unknown), LIVE (outcome known) or DEAD (last observation of an
# episode). A LIVE row that ended its episode has a flag for how, possibly both. 0: never written.
OPEN, LIVE, DEAD, TERMINATED, TRUNCATED = 1, 2, 4, 8, 16
ENDED = TERMINATED | TRUNCATED


def rows_per_lane(buffer_size: int, num_lanes: int, n_steps: int = 1, stack: int = 1) -> int:
    """Returns T, so that all lanes hold buffer_size rows in addition to one window each."""
    return -(-buffer_size // num_lanes) + n_steps + stack - 1


class Ring:
    """Columns [N, T] with one row counter for each lane; the slot of a row is row % T.

    Args:
        num_lanes: N, the number of environments.
        rows: T, at least stack + 1.
        stack: K. An episode begins with K - 1 dead rows for the frames before its first
            observation. A row is valid only while the K - 1 rows before it are stored.

    Raises:
        ValueError: A size is too small.
    """

    BYTES_PER_ROW = 4 + 4 + 1  # action, reward, status

    def __init__(self, num_lanes: int, rows: int, stack: int = 1):
        if num_lanes < 1:
            raise ValueError(f"num_lanes is {num_lanes}, must be at least 1")
        if stack < 1:
            raise ValueError(f"stack is {stack}, must be at least 1")
        if rows < stack + 1:
            raise ValueError(
                f"rows is {rows}, must be at least stack + 1 = {stack + 1} for each environment, "
                "see rows_per_lane()"
            )
        self.num_lanes, self.rows, self.stack = num_lanes, rows, stack
        self.added = np.zeros(num_lanes, np.int64)  # rows added so far; the head is added - 1
        self.action = np.zeros((num_lanes, rows), np.int32)
        self.reward = np.zeros((num_lanes, rows), np.float32)
        self.status = np.zeros((num_lanes, rows), np.uint8)
        self._compile()

    def __len__(self) -> int:
        """Number of rows stored in all lanes, including dead and open ones."""
        return int(np.minimum(self.added, self.rows).sum())

    @property
    def nbytes(self) -> int:
        return self.added.nbytes + self.action.nbytes + self.reward.nbytes + self.status.nbytes

    def add_outcomes(self, lanes, action, reward, terminated, truncated) -> np.ndarray:
        """Writes the outcome of the head row of each lane, and adds the row after it.

        Args:
            lanes: int64[M], each at most once.
            action: int64[M].
            reward: float32[M].
            terminated: bool[M].
            truncated: bool[M].

        Returns:
            int64[M], the slots for the next observations.

        Raises:
            ValueError: A lane has no open row, is repeated, or does not exist; names the lane.
        """
        lanes = self._checked(lanes)
        given = (
            np.ascontiguousarray(action, np.int64),
            np.ascontiguousarray(reward, np.float32),
            np.ascontiguousarray(terminated, np.bool_),
            np.ascontiguousarray(truncated, np.bool_),
        )
        for values in given:
            if values.shape != lanes.shape:
                raise ValueError(
                    f"an argument has shape {values.shape}, must have one entry for each of "
                    f"{len(lanes)} environments"
                )
        slots = np.empty(len(lanes), np.int64)
        invalid = _add_outcomes(lanes, *given, *self._columns(), slots)
        if invalid >= 0:
            raise ValueError(
                f"env {invalid} has no open episode or is repeated: start an episode before its "
                "steps, and add one step of each environment at a time"
            )
        return slots

    def add_starts(self, lanes) -> np.ndarray:
        """Adds stack - 1 dead rows and an open row for the first observation of an episode.

        An open episode of the same lane is closed first. lanes is int64[S]. Returns int64[S], the
        slots for the first observations.
        """
        lanes = self._checked(lanes)
        slots = np.empty(len(lanes), np.int64)
        _add_starts(lanes, self.stack, *self._columns(), slots)
        return slots

    def close(self, lanes) -> None:
        """Ends the open episodes of lanes int64[S] without a new transition.

        The head row becomes dead, and the last outcome becomes truncated, which completes windows
        that include the head. Lanes without an open episode do not change.
        """
        _close(self._checked(lanes), *self._columns())

    def is_valid(self, index, n_steps: int) -> np.ndarray:
        """Returns bool[B], which of the absolute row ids index [B] may be sampled."""
        index = np.ascontiguousarray(index, np.int64)
        return _are_valid(index, self.status, self.added, n_steps, self.stack)

    def windows(self, index, n_steps: int, gamma: float, batch, slots, next_slots) -> None:
        """Fills action, n-step return and discount of batch for valid rows index [B].

        slots and next_slots, int64[B], receive the slots of obs and next_obs.
        """
        _windows(
            index, n_steps, gamma, self.action, self.reward, self.status,
            batch.action, batch.reward, batch.discount, slots, next_slots,
        )  # fmt: skip

    def heads(self, lanes: np.ndarray) -> np.ndarray:
        """Returns int64[M], the slots of the newest rows of lanes int64[M]."""
        return lanes * self.rows + (self.added[lanes] - 1) % self.rows

    def slots_of(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Returns the slots of rows first [N] to last [N], exclusive, lane by lane."""
        slots = np.empty(int((last - first).sum()), np.int64)
        _slots_of(first, last, self.rows, slots)
        return slots

    def _checked(self, lanes) -> np.ndarray:
        lanes = np.ascontiguousarray(lanes, np.int64)
        stray = _first_outside(lanes, self.num_lanes)
        if stray >= 0:
            raise ValueError(f"env {lanes[stray]} is outside 0 to {self.num_lanes - 1}")
        return lanes

    def _columns(self):
        return self.added, self.action, self.reward, self.status

    def _compile(self) -> None:
        """Compiles every kernel, or loads it from the cache, so that it is not measured."""
        ids, f32, flags = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.bool_)
        _add_outcomes(ids, ids, f32, flags, flags, *self._columns(), ids)
        _add_starts(ids, self.stack, *self._columns(), ids)
        _close(ids, *self._columns())
        _first_outside(ids, self.num_lanes)
        _slots_of(ids, ids, self.rows, ids)
        _are_valid(ids, self.status, self.added, 1, self.stack)
        _windows(ids, 1, 0.5, self.action, self.reward, self.status, ids, f32, f32, ids, ids)


@kernel
def _slots_of(first, last, rows, slots):
    i = 0
    for lane in range(len(first)):
        for row in range(first[lane], last[lane]):
            slots[i] = lane * rows + row % rows
            i += 1


@kernel
def _first_outside(lanes, num_lanes):
    for i in range(len(lanes)):
        if lanes[i] < 0 or lanes[i] >= num_lanes:
            return i
    return -1


@kernel
def row_is_valid(status, added, lane, row, n_steps, stack):
    """Whether the row is live, its n-step window complete, and its stack still stored."""
    rows = status.shape[1]
    head = added[lane] - 1
    if row - (stack - 1) < max(0, head + 1 - rows) or row > head:
        return False
    slot = row % rows
    if not status[lane, slot] & LIVE:
        return False
    for t in range(row, row + n_steps):
        if t >= head:
            return False
        if status[lane, slot] & ENDED:
            return True
        slot = slot + 1 if slot + 1 < rows else 0  # faster than the modulo
    return True


@kernel
def _are_valid(index, status, added, n_steps, stack):
    valid = np.empty(len(index), np.bool_)
    for i in range(len(index)):
        row, lane = divmod(index[i], status.shape[0])
        valid[i] = row_is_valid(status, added, lane, row, n_steps, stack)
    return valid


@kernel
def _open_row(lane, new_status, added, action, reward, status):
    """Adds a row to a lane and clears its slot."""
    rows = status.shape[1]
    slot = added[lane] % rows
    action[lane, slot] = 0
    reward[lane, slot] = 0.0
    status[lane, slot] = new_status
    added[lane] += 1
    return lane * rows + slot


@kernel
def _add_outcomes(
    lanes, taken, received, terminated, truncated, added, action, reward, status, slots
):
    rows = status.shape[1]
    for i in range(len(lanes)):  # checks all lanes before it writes: an error changes nothing
        lane = lanes[i]
        if added[lane] == 0 or status[lane, (added[lane] - 1) % rows] != OPEN:
            for j in range(i):
                status[lanes[j], (added[lanes[j]] - 1) % rows] = OPEN
            return lane
        status[lane, (added[lane] - 1) % rows] = LIVE  # so that a repeated lane is found
    for i in range(len(lanes)):
        lane = lanes[i]
        slot = (added[lane] - 1) % rows
        action[lane, slot] = taken[i]
        reward[lane, slot] = received[i]
        outcome = LIVE
        if terminated[i]:
            outcome |= TERMINATED
        if truncated[i]:
            outcome |= TRUNCATED
        status[lane, slot] = outcome
        follows = DEAD if terminated[i] or truncated[i] else OPEN
        slots[i] = _open_row(lane, follows, added, action, reward, status)
    return -1


@kernel
def _close_lane(lane, added, status):
    rows = status.shape[1]
    head = added[lane] - 1
    if head < 0 or status[lane, head % rows] != OPEN:
        return
    status[lane, head % rows] = DEAD
    # The row before an open head is live if it belongs to the same episode, otherwise it is dead.
    # Only a live row has an outcome to change.
    if head >= 1 and status[lane, (head - 1) % rows] & LIVE:
        status[lane, (head - 1) % rows] |= TRUNCATED


@kernel
def _close(lanes, added, action, reward, status):
    for i in range(len(lanes)):
        _close_lane(lanes[i], added, status)


@kernel
def _add_starts(lanes, stack, added, action, reward, status, slots):
    for i in range(len(lanes)):
        _close_lane(lanes[i], added, status)
        for _ in range(stack - 1):
            _open_row(lanes[i], DEAD, added, action, reward, status)
        slots[i] = _open_row(lanes[i], OPEN, added, action, reward, status)


@kernel
def _windows(
    index, n_steps, gamma, action, reward, status,
    out_action, out_reward, out_discount, slots, next_slots,
):  # fmt: skip
    num_lanes, rows = status.shape
    for i in range(len(index)):
        row, lane = divmod(index[i], num_lanes)
        total, discount = 0.0, 1.0
        slot = row % rows
        slots[i] = lane * rows + slot
        out_action[i] = action[lane, slot]
        for _ in range(n_steps):
            outcome = status[lane, slot]
            total += discount * reward[lane, slot]
            discount *= gamma
            slot = slot + 1 if slot + 1 < rows else 0
            if outcome & TERMINATED:
                discount = 0.0
            if outcome & ENDED:
                break
        next_slots[i] = lane * rows + slot
        out_reward[i] = total
        out_discount[i] = discount
