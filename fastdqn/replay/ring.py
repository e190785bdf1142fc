"""Ring: which rows each lane holds, what came of them, and which of them start a window.

Row t of a lane keeps the action taken at obs_t and its outcome. The observation after a
finished episode is a row too, marked dead: it starts no window, and stays readable as next_obs
of the row before it. So next_obs is always a later row and costs no memory of its own.
"""

import numpy as np

from fastdqn.kernels.jit import kernel

# The status of a row: one of OPEN (waits for its outcome), LIVE (has one), DEAD (an episode's
# last observation); a LIVE row that ended its episode says how, and may say both. 0: unwritten.
OPEN, LIVE, DEAD, TERMINATED, TRUNCATED = 1, 2, 4, 8, 16
ENDED = TERMINATED | TRUNCATED


def rows_per_lane(buffer_size: int, num_lanes: int, n_steps: int = 1, stack: int = 1) -> int:
    """Rows T a lane so that all lanes hold buffer_size rows beyond a window's own length."""
    return -(-buffer_size // num_lanes) + n_steps + stack - 1


class Ring:
    """Lane-major columns [N, T] with one monotone row counter per lane; slot = row % T.

    num_lanes  N; rows  T, at least 2 (a row and the row after it)
    stack      K: an episode begins with K - 1 dead rows, for what came before its first
               observation; a row is valid only while its K - 1 earlier rows are still there
    Raises ValueError where a size is too small.
    """

    BYTES_PER_ROW = 4 + 4 + 1  # action, reward, status

    def __init__(self, num_lanes: int, rows: int, stack: int = 1):
        if num_lanes < 1:
            raise ValueError(f"num_lanes is {num_lanes}: a ring needs at least 1 lane")
        if stack < 1:
            raise ValueError(f"stack is {stack}: it must be at least 1")
        if rows < stack + 1:
            raise ValueError(
                f"rows is {rows}: a lane needs at least stack + 1 = {stack + 1} rows, "
                "see rows_per_lane()"
            )
        self.num_lanes, self.rows, self.stack = num_lanes, rows, stack
        self.added = np.zeros(num_lanes, np.int64)  # rows ever added; the head is added - 1
        self.action = np.zeros((num_lanes, rows), np.int32)
        self.reward = np.zeros((num_lanes, rows), np.float32)
        self.status = np.zeros((num_lanes, rows), np.uint8)
        self._compile()

    def __len__(self) -> int:
        """Rows held, all lanes together, dead and open ones included."""
        return int(np.minimum(self.added, self.rows).sum())

    @property
    def nbytes(self) -> int:
        return self.added.nbytes + self.action.nbytes + self.reward.nbytes + self.status.nbytes

    def add_outcomes(self, lanes, action, reward, terminated, truncated) -> np.ndarray:
        """Close the head row of each lane with what came of it, and open the row after it.

        lanes [M] int64, no lane twice; action [M] int64; reward [M] float32;
        terminated, truncated [M] bool
        returns  [M] int64, the slots where the observations that followed belong
        Raises ValueError naming the lane if it has no open row, is named twice, or is none of
        this ring's.
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
                raise ValueError(f"{values.shape} values for {len(lanes)} lanes: one a lane")
        slots = np.empty(len(lanes), np.int64)
        refused = _add_outcomes(lanes, *given, *self._columns(), slots)
        if refused >= 0:
            raise ValueError(
                f"lane {refused} has no open episode, or is named twice: start an episode "
                "before its steps, and add one step of a lane at a time"
            )
        return slots

    def add_starts(self, lanes) -> np.ndarray:
        """Open a row for the first observation of an episode, behind stack - 1 dead ones; a lane
        still open is closed first.

        lanes [S] int64; returns [S] int64, the slots where the first observations belong
        """
        lanes = self._checked(lanes)
        slots = np.empty(len(lanes), np.int64)
        _add_starts(lanes, self.stack, *self._columns(), slots)
        return slots

    def close(self, lanes) -> None:
        """End the open episodes of lanes [S] int64 without inventing a transition.

        The head row becomes dead and the last stored outcome becomes truncated, so windows
        that waited on the head complete. A lane that is not open stays as it is.
        """
        _close(self._checked(lanes), *self._columns())

    def is_valid(self, index, n_steps: int) -> np.ndarray:
        """Say which of the absolute row ids index [B] may be sampled now: [B] bool."""
        index = np.ascontiguousarray(index, np.int64)
        return _are_valid(index, self.status, self.added, n_steps, self.stack)

    def windows(self, index, n_steps: int, gamma: float, batch, slots, next_slots) -> None:
        """Fill action, n-step return and discount of batch for the valid rows index [B].

        slots, next_slots [B] int64 receive where obs and next_obs are kept
        """
        _windows(
            index, n_steps, gamma, self.action, self.reward, self.status,
            batch.action, batch.reward, batch.discount, slots, next_slots,
        )  # fmt: skip

    def slots_of(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """The slots of rows first [N] to last [N] (not included) of each lane, lane after lane."""
        slots = np.empty(int((last - first).sum()), np.int64)
        _slots_of(first, last, self.rows, slots)
        return slots

    def _checked(self, lanes) -> np.ndarray:
        lanes = np.ascontiguousarray(lanes, np.int64)
        stray = _first_outside(lanes, self.num_lanes)
        if stray >= 0:
            raise ValueError(f"lane {lanes[stray]} is outside 0 to {self.num_lanes - 1}")
        return lanes

    def _columns(self):
        return self.added, self.action, self.reward, self.status

    def _compile(self) -> None:
        """Compile every kernel (or load it from the cache) before anyone looks at a clock."""
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
    """Alive, its n-step window complete, and its earlier stacked rows still there."""
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
        slot = slot + 1 if slot + 1 < rows else 0  # a division takes longer than all the rest
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
    """Add a row to a lane; what its slot held before is cleared."""
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
    for i in range(len(lanes)):  # first look, then write: a refused step leaves no trace
        lane = lanes[i]
        if added[lane] == 0 or status[lane, (added[lane] - 1) % rows] != OPEN:
            for j in range(i):
                status[lanes[j], (added[lanes[j]] - 1) % rows] = OPEN
            return lane
        status[lane, (added[lane] - 1) % rows] = LIVE  # so that a lane named twice is seen
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
    # The row before an open head is either of the same episode, and alive, or the dead end of
    # the one before: only the first has an outcome to patch.
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
