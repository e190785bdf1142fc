"""Replay: steps in, n-step minibatches out, over one ring, one store and one sampler."""

from collections.abc import Iterable

import numpy as np

from fastdqn.replay.batch import Batch, ObsStore, StepLike, joined, new_batch, require_alike
from fastdqn.replay.ring import Ring
from fastdqn.replay.sampler import Sampler
from fastdqn.state_dict import (
    RowLayout,
    Rows,
    State,
    StateError,
    take_array,
    take_number,
    take_state,
)

# A batch that was looked at; slots [2, B] of its rows; obs and next_obs as one array, or None.
_Accepted = tuple[Batch, np.ndarray, np.ndarray | None]
# That are remembered: those that take turns on their way to a device.
_MOST_BATCHES = 128


class Replay:
    """The experience store of the whole run, preallocated.

    ring, store, sampler  share it with nobody
    masks    store of the actions allowed at each row, [A] bool; None where there are no masks
    n_steps  rewards summed in a window, at least 1, shorter where an episode ends
    gamma    discount per environment step, in [0, 1]; used here and nowhere else
    reward_bound  each reward is clipped to it, up and down, before any are summed

    >>> import numpy as np
    >>> from fastdqn.replay import Replay, Ring, RowStore, UniformSampler
    >>> ring = Ring(num_lanes=2, rows=8)
    >>> store = RowStore(2, 8, obs_shape=(3,), obs_dtype=np.float32)
    >>> replay = Replay(ring, store, UniformSampler(seed=1), n_steps=2, gamma=0.5)
    >>> replay.start(lanes=[0, 1], obs=np.zeros((2, 3)))
    >>> for r in (1.0, 2.0):
    ...     replay.add(lanes=[0, 1], action=[0, 1], reward=[r, r], next_obs=np.full((2, 3), r))
    >>> batch = replay.new_batch(4)
    >>> replay.sample(batch)
    >>> batch.reward.tolist(), batch.discount.tolist()
    ([2.0, 2.0, 2.0, 2.0], [0.25, 0.25, 0.25, 0.25])
    """

    def __init__(
        self,
        ring: Ring,
        store: ObsStore,
        sampler: Sampler,
        *,
        masks: ObsStore | None = None,
        n_steps: int = 1,
        gamma: float = 0.99,
        reward_bound: float = np.inf,
    ):
        if n_steps < 1:
            raise ValueError(f"n_steps is {n_steps}: it must be at least 1")
        if ring.rows < n_steps + ring.stack:
            raise ValueError(
                f"{ring.rows} rows a lane cannot hold a {n_steps}-step window: "
                f"at least n_steps + stack = {n_steps + ring.stack}, see rows_per_lane()"
            )
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma is {gamma}: it must be in [0, 1]")
        if store.stack > ring.stack:
            raise ValueError(
                f"the store stacks {store.stack} frames, the ring {ring.stack}: make both with "
                "the same stack"
            )
        for slots in (each.num_slots for each in (store, masks) if each is not None):
            if slots != ring.num_lanes * ring.rows:
                raise ValueError(
                    f"the store has {slots} slots, the ring {ring.num_lanes} x {ring.rows}: "
                    "make both with the same lanes and rows"
                )
        self.ring, self.store, self.sampler, self.masks = ring, store, sampler, masks
        self.reward_scale = 1.0  # applied to the rewards of a batch; the rows keep true ones
        self.reward_bound = reward_bound
        self.n_steps, self.gamma = n_steps, float(gamma)  # an int would compile another kernel
        self._batch: Batch | None = None  # the last one that was looked at
        self._slots = np.empty((2, 0), np.int64)
        self._accepted: dict[int, _Accepted] = {}
        self._both: np.ndarray | None = None  # its obs and next_obs, where they lie side by side
        # Compiles, before anyone looks at a clock, and shows the sampler a ring that has rows.
        ids, f32 = np.empty(0, np.int64), np.empty(0, np.float32)
        self.sampler.follow(ring, n_steps, np.arange(ring.num_lanes))
        self.sampler.draw(ring, n_steps, ids, f32, 0)
        self.sampler.update(ring, n_steps, ids, f32)

    @property
    def nbytes(self) -> int:
        masks = 0 if self.masks is None else self.masks.nbytes
        return self.ring.nbytes + self.store.nbytes + masks + self.sampler.nbytes

    @property
    def wants_priorities(self) -> bool:
        return self.sampler.wants_priorities

    def __len__(self) -> int:
        return len(self.ring)

    def append(self, step: StepLike) -> None:
        """Store what happened in one call: transitions first, then starts."""
        if len(step.lanes):
            self.add(
                step.lanes, step.action, step.reward,
                step.next_obs, step.terminated, step.truncated, step.next_mask,
            )  # fmt: skip
        if len(step.start_lanes):
            self.start(step.start_lanes, step.start_obs, step.start_mask)

    def start(self, lanes, obs, mask=None) -> None:
        """Begin episodes: obs [S, *] are the first observations of lanes [S].

        mask [S, A] bool, the actions allowed there; needed where there is a store of masks
        An episode still open there is closed first, see close().
        """
        obs, mask = self._checked(lanes, obs, mask)
        slots = self.ring.add_starts(lanes)
        self.store.begin(slots, obs)
        if self.masks is not None:
            self.masks.begin(slots, mask)
        self.sampler.follow(self.ring, self.n_steps, lanes)

    def add(
        self, lanes, action, reward, next_obs, terminated=None, truncated=None, next_mask=None
    ) -> None:
        """Store one transition of each of the lanes [M], no lane twice.

        action [M] int, from 0; reward [M]; next_obs [M, *] the true last observation where an
        episode ended; terminated, truncated [M] bool, all False if left out; next_mask [M, A]
        bool, needed where there is a store of masks
        Raises ValueError where a lane has no open episode or does not exist, or where a store of
        frames finds next_obs to be no stack.
        """
        next_obs, next_mask = self._checked(lanes, next_obs, next_mask)
        never = np.zeros(len(lanes), np.bool_)
        if self.reward_bound < np.inf:  # 2 us; the caller's own are the record's, and stay
            reward = np.clip(reward, -self.reward_bound, self.reward_bound)
        slots = self.ring.add_outcomes(
            lanes, action, reward,
            never if terminated is None else terminated,
            never if truncated is None else truncated,
        )  # fmt: skip
        self.store.write(slots, next_obs)
        if self.masks is not None:
            self.masks.write(slots, next_mask)
        self.sampler.follow(self.ring, self.n_steps, lanes)

    def close(self, lanes) -> None:
        """End the open episodes of lanes [S] as truncated; no transition is invented."""
        self.ring.close(lanes)
        self.sampler.follow(self.ring, self.n_steps, lanes)

    def new_batch(self, batch_size: int) -> Batch:
        """Allocate the arrays that sample() fills, for batch_size rows."""
        masked = None if self.masks is None else self.masks.obs_shape[0]
        return new_batch(batch_size, self.store.obs_shape, self.store.obs_dtype, masked)

    def sample(self, batch: Batch, steps: int = 0) -> None:
        """Fill the arrays of batch in place, as new_batch() lays them out.

        steps  in the environment so far, for a sampler that goes by them
        Raises RuntimeError where no window is complete yet, ValueError where batch is laid out
        in another way.
        """
        if batch is not self._batch:
            known = self._accepted.get(id(batch))
            self._batch, self._slots, self._both = known or self._accept(batch)
        slots, next_slots = self._slots
        self.sampler.draw(self.ring, self.n_steps, batch.index, batch.weight, steps)
        self.ring.windows(batch.index, self.n_steps, self.gamma, batch, slots, next_slots)
        if self._both is not None:  # as new_batch() lays them out: one call for both
            self.store.gather(self._slots.reshape(-1), self._both)
        else:
            self.store.gather(slots, batch.obs)
            self.store.gather(next_slots, batch.next_obs)
        if self.masks is not None:
            self.masks.gather(slots, batch.mask)
            self.masks.gather(next_slots, batch.next_mask)
        if self.reward_scale != 1.0:
            np.multiply(batch.reward, self.reward_scale, out=batch.reward)

    def update_priorities(self, index, priority) -> None:
        """Tell the sampler how surprising the rows index [B] were: priority [B] >= 0."""
        self.sampler.update(self.ring, self.n_steps, index, priority)

    def state(self) -> State:
        """All that the next call depends on, beside the rows: see rows_since()."""
        return {
            "added": self.ring.added.copy(),
            "reward_scale": self.reward_scale,
            "sampler": self.sampler.state(),
        }

    def rows_since(self, saved: np.ndarray) -> Rows:
        """Copy the rows that have come or changed since each lane had saved [N] of them.

        A row is fixed once two have come after it: its outcome is known, and closing the lane,
        which cuts the last outcome, reaches no further back.
        """
        ring = self.ring
        first, last = self._since(saved), ring.added.copy()
        slots = ring.slots_of(first, last)
        columns = {name: column.reshape(-1)[slots] for name, column in self._columns().items()}
        for name, store in self._stores().items():
            columns[name] = np.empty((len(slots), *store.obs_shape), store.obs_dtype)
            store.gather(slots, columns[name])
        for array in (first, last, *columns.values()):
            array.flags.writeable = False  # nobody has to copy it again
        return Rows(first, last, columns)

    def bytes_since(self, saved: np.ndarray) -> int:
        """What rows_since(saved) would copy."""
        rows = int((self.ring.added - self._since(saved)).sum())
        of_rows = self.nbytes - self.sampler.nbytes
        return rows * of_rows // (self.ring.num_lanes * self.ring.rows)

    def _since(self, saved: np.ndarray) -> np.ndarray:
        return np.maximum(saved - 2, self.oldest())

    def layout(self) -> RowLayout:
        """What rows_since() gives, and load_state() takes."""
        columns = {name: (column.dtype, ()) for name, column in self._columns().items()}
        columns |= {
            name: (np.dtype(store.obs_dtype), store.obs_shape)
            for name, store in self._stores().items()
        }
        return RowLayout(self.ring.num_lanes, self.ring.rows, columns)

    def oldest(self) -> np.ndarray:
        """The oldest row of each lane that is still there: [N] int64."""
        return np.maximum(self.ring.added - self.ring.rows, 0)

    def load_state(self, state: State, segments: Iterable[Rows]) -> None:
        """Go on from a state; segments in the order in which rows_since() gave them.

        Raises StateError naming the field; the replay is of no use then.
        """
        self.ring.added[:] = take_array(state, "added", self.ring.added)
        self.reward_scale = take_number(state, "reward_scale")
        seen = np.zeros(self.ring.num_lanes, np.int64)
        for rows in segments:
            self._write_rows(rows)
            seen = np.maximum(seen, rows.last)
        if (seen < self.ring.added).any():
            lane = np.flatnonzero(seen < self.ring.added)[0]
            raise StateError(f"rows of lane {lane} end at {seen[lane]}: {self.ring.added[lane]}")
        self.sampler.load_state(take_state(state, "sampler"), self.ring, self.n_steps)

    def _write_rows(self, rows: Rows) -> None:
        named = {"first": rows.first, "last": rows.last}
        first, last = (take_array(named, name, self.ring.added) for name in named)
        if (last > self.ring.added).any() or (first > last).any() or (first < 0).any():
            raise StateError("first and last of a segment are no rows of this replay")
        # Rows that have been overwritten since are left out, or they would overwrite others.
        oldest = self.oldest()
        kept = np.concatenate(
            [np.arange(first[i], last[i]) >= oldest[i] for i in range(self.ring.num_lanes)]
        )
        slots = self.ring.slots_of(first, last)[kept]
        for name, column in self._columns().items():
            like = np.empty(len(kept), column.dtype)
            column.reshape(-1)[slots] = take_array(rows.columns, name, like)[kept]
        for name, store in self._stores().items():
            like = np.empty((len(kept), *store.obs_shape), store.obs_dtype)
            store.write(slots, take_array(rows.columns, name, like)[kept])

    def _columns(self) -> dict[str, np.ndarray]:
        return {name: getattr(self.ring, name) for name in ("action", "reward", "status")}

    def _stores(self) -> dict[str, ObsStore]:
        """By column of a segment: what one row keeps, a frame where observations are stacks."""
        return {"obs": self.store.by_row} | ({} if self.masks is None else {"mask": self.masks})

    def _checked(self, lanes, obs, mask) -> tuple[np.ndarray, np.ndarray]:
        """Before the ring moves on: a refused call leaves no row without its observation."""
        if (mask is None) != (self.masks is None):
            has, given = ("no store", "given") if self.masks is None else ("a store", "missing")
            raise ValueError(f"masks are {given}, and this replay has {has} for them")
        if self.masks is not None and np.shape(mask) != (len(lanes), *self.masks.obs_shape):
            raise ValueError(
                f"masks have shape {np.shape(mask)}: {(len(lanes), *self.masks.obs_shape)} expected"
            )
        obs = np.ascontiguousarray(obs, self.store.obs_dtype).reshape(np.shape(obs))
        expected = (len(lanes), *self.store.obs_shape)
        if obs.shape != expected:
            raise ValueError(f"observations have shape {obs.shape}: {expected} expected")
        return obs, mask

    def _accept(self, batch: Batch) -> _Accepted:
        """Kernels write where they are told: what they are told is looked at once a batch."""
        size = len(batch.index)
        require_alike(batch, self.new_batch(size))
        accepted = (batch, np.empty((2, size), np.int64), joined(batch.obs, batch.next_obs))
        if len(self._accepted) >= _MOST_BATCHES:  # someone brings a new one each time
            self._accepted.clear()
        self._accepted[id(batch)] = accepted  # it is held: no other gets its id
        return accepted
