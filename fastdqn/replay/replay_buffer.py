"""Replay: the replay buffer, with a ring, an observation store and a sampler."""

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

# A validated batch, the slots [2, B] of its rows, and obs and next_obs as one array or None.
_Accepted = tuple[Batch, np.ndarray, np.ndarray | None]
# Batches to remember: more than take turns on their way to a device.
_MOST_BATCHES = 128


class Replay:
    """Preallocated replay buffer that takes steps and returns n-step minibatches.

    Args:
        ring: Rows of the environments, used by this replay only.
        store: Observations, used by this replay only.
        sampler: Selects rows, used by this replay only.
        masks: Store of the actions allowed at each row, bool[A]; None without masks.
        n_steps: Number of rewards summed in a window, at least 1; fewer at an episode end.
        gamma: Discount factor for each environment step, in [0, 1], applied nowhere else.
        reward_bound: Rewards are clipped to +-reward_bound before they are summed.

    Example:
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
            raise ValueError(f"n_steps is {n_steps}, must be at least 1")
        if ring.rows < n_steps + ring.stack:
            raise ValueError(
                f"{ring.rows} rows for each environment cannot hold a {n_steps}-step window, which "
                f"needs at least n_steps + stack = {n_steps + ring.stack}, see rows_per_lane()"
            )
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma is {gamma}, must be in [0, 1]")
        if store.stack > ring.stack:
            raise ValueError(
                f"the store stacks {store.stack} frames, but the ring {ring.stack}: create both "
                "with the same stack"
            )
        for slots in (each.num_slots for each in (store, masks) if each is not None):
            if slots != ring.num_lanes * ring.rows:
                raise ValueError(
                    f"the store has {slots} slots, but the ring has {ring.num_lanes} x "
                    f"{ring.rows}: create both with the same num_lanes and rows"
                )
        self.ring, self.store, self.sampler, self.masks = ring, store, sampler, masks
        self.reward_scale = 1.0  # applied to the rewards of a batch; rows keep unscaled ones
        self.reward_bound = reward_bound
        self.n_steps, self.gamma = n_steps, float(gamma)  # an int would compile another kernel
        self._batch: Batch | None = None  # the last batch that was sampled
        self._slots = np.empty((2, 0), np.int64)
        self._accepted: dict[int, _Accepted] = {}
        self._both: np.ndarray | None = None  # obs and next_obs of the batch, if adjacent
        # Compiles the kernels now, and lets the sampler read a ring that already has rows.
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
        """Stores one step: transitions first, then episode starts."""
        if len(step.lanes):
            self.add(
                step.lanes, step.action, step.reward,
                step.next_obs, step.terminated, step.truncated, step.next_mask,
            )  # fmt: skip
        if len(step.start_lanes):
            self.start(step.start_lanes, step.start_obs, step.start_mask)

    def start(self, lanes, obs, mask=None) -> None:
        """Starts episodes. An open episode of the same lane is closed first, see close().

        Args:
            lanes: int64[S].
            obs: [S, *], the first observations.
            mask: bool[S, A], the actions allowed there; required if the replay has masks.
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
        """Stores one transition for each of lanes, each lane at most once.

        Args:
            lanes: int64[M].
            action: int[M], counted from 0.
            reward: [M].
            next_obs: [M, *]; at an episode end the last observation.
            terminated: bool[M]; None stands for False everywhere.
            truncated: bool[M]; None stands for False everywhere.
            next_mask: bool[M, A], the actions allowed at next_obs; required if the replay has
                masks.

        Raises:
            ValueError: A lane has no open episode or does not exist, or next_obs is not the stack
                of frames that a FrameStore expects.
        """
        next_obs, next_mask = self._checked(lanes, next_obs, next_mask)
        never = np.zeros(len(lanes), np.bool_)
        if self.reward_bound < np.inf:  # 2 us; a copy, since the caller logs the true rewards
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
        """Ends the open episodes of lanes [S] as truncated, without a new transition."""
        self.ring.close(lanes)
        self.sampler.follow(self.ring, self.n_steps, lanes)

    def newest(self, lanes: np.ndarray) -> np.ndarray | None:
        """Returns the slots of the newest observations of lanes int64[M], if a device has them."""
        return self.ring.heads(lanes) if self.store.on_device else None

    def new_batch(self, batch_size: int) -> Batch:
        """Allocates a batch of batch_size rows for sample()."""
        masked = None if self.masks is None else self.masks.obs_shape[0]
        store = self.store
        return new_batch(batch_size, store.sample_shape, store.sample_dtype, masked)

    def sample(self, batch: Batch, steps: int = 0) -> None:
        """Samples into the arrays of batch.

        Args:
            batch: Arrays as new_batch() allocates them.
            steps: Environment steps so far, for scheduled exponents.

        Raises:
            RuntimeError: No window is complete yet.
            ValueError: An array of batch has the wrong shape, dtype or layout.
        """
        if batch is not self._batch:
            known = self._accepted.get(id(batch))
            self._batch, self._slots, self._both = known or self._validate(batch)
        slots, next_slots = self._slots
        self.sampler.draw(self.ring, self.n_steps, batch.index, batch.weight, steps)
        self.ring.windows(batch.index, self.n_steps, self.gamma, batch, slots, next_slots)
        if self._both is not None:  # adjacent, as new_batch() allocates them: one call for both
            self.store.sample(self._slots.reshape(-1), self._both)
        else:
            self.store.sample(slots, batch.obs)
            self.store.sample(next_slots, batch.next_obs)
        if self.masks is not None:
            self.masks.gather(slots, batch.mask)
            self.masks.gather(next_slots, batch.next_mask)
        if self.reward_scale != 1.0:
            np.multiply(batch.reward, self.reward_scale, out=batch.reward)

    def update_priorities(self, index, priority) -> None:
        """Passes the TD errors, priority [B] >= 0, of the rows index [B] to the sampler."""
        self.sampler.update(self.ring, self.n_steps, index, priority)

    def state(self) -> State:
        """Returns a state dict without the rows, for which see rows_since()."""
        return {
            "added": self.ring.added.copy(),
            "reward_scale": self.reward_scale,
            "sampler": self.sampler.state(),
        }

    def rows_since(self, saved: np.ndarray) -> Rows:
        """Copies the rows that are new or changed since saved, int64[N] rows of each lane.

        A row is final once two rows follow it. Its outcome is known, and closing the lane, which
        changes the last outcome, reaches no further back.
        """
        ring = self.ring
        first, last = self._since(saved), ring.added.copy()
        slots = ring.slots_of(first, last)
        columns = {name: column.reshape(-1)[slots] for name, column in self._columns().items()}
        for name, store in self._stores().items():
            columns[name] = np.empty((len(slots), *store.obs_shape), store.obs_dtype)
            store.gather(slots, columns[name])
        for array in (first, last, *columns.values()):
            array.flags.writeable = False  # so that it need not be copied again
        return Rows(first, last, columns)

    def bytes_since(self, saved: np.ndarray) -> int:
        """Returns the size in bytes of rows_since(saved)."""
        rows = int((self.ring.added - self._since(saved)).sum())
        of_rows = self.nbytes - self.sampler.nbytes
        return rows * of_rows // (self.ring.num_lanes * self.ring.rows)

    def _since(self, saved: np.ndarray) -> np.ndarray:
        return np.maximum(saved - 2, self.oldest())

    def layout(self) -> RowLayout:
        """Returns the columns of rows_since(), which load_state() expects."""
        columns = {name: (column.dtype, ()) for name, column in self._columns().items()}
        columns |= {
            name: (np.dtype(store.obs_dtype), store.obs_shape)
            for name, store in self._stores().items()
        }
        return RowLayout(self.ring.num_lanes, self.ring.rows, columns)

    def oldest(self) -> np.ndarray:
        """Returns the oldest stored row of each lane, int64[N]."""
        return np.maximum(self.ring.added - self.ring.rows, 0)

    def load_state(self, state: State, segments: Iterable[Rows]) -> None:
        """Loads a state dict, and segments in the order in which rows_since() returned them.

        Raises:
            StateError: A field is invalid; the replay must not be used then.
        """
        self.ring.added[:] = take_array(state, "added", self.ring.added)
        self.reward_scale = take_number(state, "reward_scale")
        seen = np.zeros(self.ring.num_lanes, np.int64)
        for rows in segments:
            self._write_rows(rows)
            seen = np.maximum(seen, rows.last)
        if (seen < self.ring.added).any():
            lane = np.flatnonzero(seen < self.ring.added)[0]
            raise StateError(
                f"rows of env {lane} end at {seen[lane]}, must end at {self.ring.added[lane]}"
            )
        self.sampler.load_state(take_state(state, "sampler"), self.ring, self.n_steps)

    def _write_rows(self, rows: Rows) -> None:
        named = {"first": rows.first, "last": rows.last}
        first, last = (take_array(named, name, self.ring.added) for name in named)
        if (last > self.ring.added).any() or (first > last).any() or (first < 0).any():
            raise StateError("first and last of a segment are not rows of this replay")
        # Rows that were overwritten later are skipped, since their slots hold newer rows.
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
        """Returns stores by column of a segment; of stacked observations one frame for each row."""
        return {"obs": self.store.by_row} | ({} if self.masks is None else {"mask": self.masks})

    def _checked(self, lanes, obs, mask) -> tuple[np.ndarray, np.ndarray]:
        """Validates arguments before the ring changes, so that an error leaves no partial row."""
        if (mask is None) != (self.masks is None):
            has, given = ("no store", "given") if self.masks is None else ("a store", "missing")
            raise ValueError(f"masks are {given}, but this replay has {has} for them")
        if self.masks is not None and np.shape(mask) != (len(lanes), *self.masks.obs_shape):
            raise ValueError(
                f"masks have shape {np.shape(mask)}, must be {(len(lanes), *self.masks.obs_shape)}"
            )
        obs = np.ascontiguousarray(obs, self.store.obs_dtype).reshape(np.shape(obs))
        expected = (len(lanes), *self.store.obs_shape)
        if obs.shape != expected:
            raise ValueError(f"observations have shape {obs.shape}, must be {expected}")
        return obs, mask

    def _validate(self, batch: Batch) -> _Accepted:
        """Validates a batch once, since kernels write to its arrays without checks."""
        size = len(batch.index)
        require_alike(batch, self.new_batch(size))
        accepted = (batch, np.empty((2, size), np.int64), joined(batch.obs, batch.next_obs))
        if len(self._accepted) >= _MOST_BATCHES:  # the caller passes a new batch each time
            self._accepted.clear()
        self._accepted[id(batch)] = accepted  # the reference keeps its id from being reused
        return accepted
