"""EnvStream: what really happened in a vector environment, told alike for every autoreset mode."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from fastdqn.acting.autoreset import (
    read_mode,
    require_final_obs,
    require_next_step,
    require_no_restart,
)
from fastdqn.acting.backends import Arrival, connect
from fastdqn.acting.env_state import read_env_state, takes_env_state, write_env_state
from fastdqn.acting.failures import (
    EnvError,
    LaneFailure,
    NonFiniteError,
    explain,
    name_place,
)
from fastdqn.acting.lives import LifeLosses, may_lose_lives
from fastdqn.acting.masks import MaskReader
from fastdqn.acting.observations import ObsReader, batch_of_one
from fastdqn.acting.sorting import Sorted, first_nonfinite, hand_out, sort, tell_apart
from fastdqn.acting.spaces import read_spaces
from fastdqn.acting.step import Step, lane_of
from fastdqn.acting.stream_state import checked
from fastdqn.plain import State


class EnvStream:
    """Steps a Gymnasium VectorEnv and separates transitions from episode starts.

    envs  any VectorEnv; its autoreset mode is read from the instance and checked by behaviour
    env_batch_size  R, the lanes whose answers recv() waits for; None: all N, or what envs were
          made with. With R < N the lanes answer in an order of their own.
    lanes [R] int64   the lanes that wait for an action now
    obs   [R, *]      what to act on; a lane whose next call is a reset ignores its action
    mask  [R, A] bool the actions allowed there, as info["action_mask"] says; None without masks
    Raises ValueError where the spaces cannot be trained on.
    """

    def __init__(self, envs: VectorEnv, env_batch_size: int | None = None):
        self.envs = envs
        self.facts = read_spaces(envs.single_observation_space, envs.single_action_space)
        self.autoreset_mode = read_mode(envs)
        self._reader = ObsReader(envs.single_observation_space)
        self._backend = connect(envs, env_batch_size)
        n, ready = envs.num_envs, self._backend.num_ready
        if ready < n and self.autoreset_mode == AutoresetMode.DISABLED:
            raise ValueError("lanes that answer first need an autoreset mode, not DISABLED")
        self.num_lanes, self.num_ready = n, ready
        self.lanes = np.arange(ready)
        self.obs = np.zeros((ready, *self.facts.obs_shape), self.facts.obs_dtype)
        self._masks: MaskReader | None = None
        self._reward = np.zeros(ready, np.float32)
        # Of each lane that answered: how it ended, whether it did, whether this is its first
        # answer, whether an episode begins, whether one is over: lost lives end none.
        self._terminated, self._truncated, self._over, self._fresh = np.zeros((4, ready), np.bool_)
        self._begins, self._finished = np.zeros((2, ready), np.bool_)
        self._lives = LifeLosses(n) if may_lose_lives(envs) else None
        if self._lives is None:
            self._finished = self._over
        self._action_dtype = envs.single_action_space.dtype
        self._next_step = self.autoreset_mode == AutoresetMode.NEXT_STEP
        self._sorted = Sorted(ready)
        # Of each lane, whether or not it is among those that answered:
        self._action = np.zeros(n, np.int64)
        self._unseen, self._ended = np.zeros((2, n), np.bool_)  # as of its last delivery
        self._returns = np.zeros(n, np.float64)
        self._lengths = np.zeros(n, np.int64)
        self._steps = np.zeros(n, np.int64)  # since start(), for messages
        self._seed: int | None = None
        self._waits = False  # whether lanes wait for actions: started, and nothing is under way
        self._compile()

    @property
    def mask(self) -> np.ndarray | None:
        return None if self._masks is None else self._masks.mask

    def start(self, seed: int | None = None) -> Step:
        """Reset every lane; the delivery has R starts and no transition.

        Raises EnvError naming lane and seed where an environment raises.
        """
        self._seed, self._waits = seed, False
        for values in (self._ended, self._returns, self._lengths, self._steps):
            values.fill(0)
        self._unseen.fill(True)
        self._masks = None
        arrival = self._ask("reset", lambda: self._backend.reset(seed))
        if "action_mask" in arrival.info:
            self._masks = MaskReader(self.num_ready, self.facts.num_actions)
        return self._tell(arrival)

    def send(self, action: np.ndarray) -> None:
        """Hand the lanes that wait their actions [R] int64, from 0; some begin at once."""
        action = np.asarray(action, np.int64)
        sent = np.empty(self.lanes.shape, self._action_dtype)  # environments may keep it
        if action.shape != sent.shape or not hand_out(
            self.lanes, action, self.facts.num_actions, self.facts.action_start, self._action, sent
        ):  # C++ would hang on it
            raise ValueError(
                f"actions must be {len(sent)} numbers from 0 to {self.facts.num_actions - 1}: "
                f"{action}"
            )
        self._waits = False
        self._ask("step", lambda: self._backend.send(self.lanes, sent))

    def recv(self) -> Step:
        """Wait for what send() set going.

        Raises NonFiniteError naming lane and step; EnvError where an environment raises, dies, or
        behaves in another way than the autoreset mode that it declares, naming the lane, its seed
        and its last action.
        """
        return self._tell(self._ask("step", self._backend.recv))

    def state(self) -> State:
        """All that the next send() and recv() depend on, as copies of plain values; "envs" is None
        where the environments' state cannot be read.

        Raises ValueError unless lanes wait for actions: after start() or recv(), before send().
        """
        if not self._waits:
            raise ValueError("a stream's state is taken after start() or recv(), before send()")
        kept: State = {name: values.copy() for name, values in self._kept().items()}
        return kept | {
            "mask": None if self.mask is None else self.mask.copy(),
            "seed": None if self._seed is None else int(self._seed),
            "autoreset_mode": self.autoreset_mode.value,
            "envs": read_env_state(self.envs),
        }

    def load_state(self, state: Any) -> bool:
        """Go on where the stream that the state was taken from stopped, over environments made
        alike: send() comes next, and no start().

        returns  False, with nothing changed, where the state of environments is not there or is
                 of another kind: start() comes next
        Raises ValueError naming the field that does not fit, as write_env_state() does.
        """
        kept = self._kept()
        new = checked(
            state, kept, self.autoreset_mode.value, self.num_lanes, self.facts.num_actions
        )
        if not takes_env_state(self.envs, new["envs"]):
            return False
        write_env_state(self.envs, new["envs"])
        # Not copied into the old array, which may be the back end's own.
        self.lanes = new["lanes"]
        for name in kept.keys() - {"lanes"}:
            np.copyto(kept[name], new[name])
        self._masks = None
        if new["mask"] is not None:
            self._masks = MaskReader(*new["mask"].shape)
            self._masks.mask[:] = new["mask"]
        self._seed, self._waits = new["seed"], True
        return True

    def _kept(self) -> dict[str, np.ndarray]:
        """The arrays that outlast a delivery, by their names in a state."""
        return {
            "lanes": self.lanes, "obs": self.obs, "action": self._action,
            "unseen": self._unseen, "ended": self._ended, "returns": self._returns,
            "lengths": self._lengths, "steps": self._steps,
        }  # fmt: skip

    def settle(self) -> None:
        """Wait for lanes under way and forget their answers: the environments, which stay open,
        can then be used by others."""
        with contextlib.suppress(LaneFailure):  # it was told, or is told by the next call
            self._backend.settle()

    def close(self) -> None:
        """Close the environments, processes under way or dead included."""
        self._backend.close()

    def _tell(self, arrival: Arrival) -> Step:
        """Copy what arrived, since environments may reuse their arrays, and sort it."""
        lanes = self.lanes = arrival.lanes
        try:
            np.copyto(self._reward, arrival.reward, casting="unsafe")
            np.copyto(self._terminated, arrival.terminated)
            np.copyto(self._truncated, arrival.truncated)
        except (ValueError, TypeError) as error:
            raise EnvError(
                f"reward, terminated or truncated are not one number a lane: {error}"
            ) from error
        ended, fresh = self._over, self._fresh
        marks = (
            lanes, self._terminated, self._truncated, self._next_step, self._unseen, self._ended,
            ended, fresh, self._begins,
        )  # fmt: skip
        if self._lives is None:
            count, both = tell_apart(*marks)
        else:
            count, both = self._lives.tell(arrival.info, *marks, self._finished)
        self._read(arrival.obs)
        if self._masks is not None:
            # Under SAME_STEP a lane that ended has restarted, and must act like any other.
            over = ended & (self.autoreset_mode != AutoresetMode.SAME_STEP)
            self._masks.read(arrival.info, lanes, over)
        elif "action_mask" in arrival.info:
            raise EnvError("info['action_mask'] is given by step() and not by reset(): give both")
        last_obs, last_mask = self.obs, self.mask
        if count and self._next_step:
            require_next_step(lanes, ended, both, arrival.info)
        elif count:
            over = np.flatnonzero(self._finished)  # of a lost life ale-py's final_obs tells nothing
            if len(over):
                last_obs, last_mask = self._restart(over, arrival.info)
        step = self._deliver(last_obs, last_mask)
        if self._lives is not None and not self._next_step and len(step.ended_lanes):
            step = self._with_last_starts(step, last_obs)
        self._waits = True
        return step

    def _restart(self, ended: np.ndarray, info: dict) -> tuple[np.ndarray, np.ndarray | None]:
        """SAME_STEP has restarted the lanes at the positions ended, DISABLED is told to.

        returns  the observations [R, *] and masks [R, A] from before that
        """
        last_obs = self.obs.copy()
        last_mask, restarted = None, self.autoreset_mode == AutoresetMode.SAME_STEP
        if self._masks is not None:
            last_mask = self._masks.before_restart(ended, info, restarted)
        if not restarted:
            self._restart_disabled(ended, info)
        else:
            require_final_obs(int(self.lanes[ended[0]]), info)
            # An object array in Gymnasium, a dense one in ALE, a dict of arrays for a Dict space.
            self._read_final(ended, info["final_obs"], last_obs)
        return last_obs, last_mask

    def _restart_disabled(self, ended: np.ndarray, info: dict) -> None:
        require_no_restart(int(self.lanes[ended[0]]), info)
        before = self.obs.copy()
        arrival = self._ask("reset", lambda: self._backend.restart(ended))
        self._read(arrival.obs)
        # What is equal to nothing is equal to itself here: it is told as what it is later.
        changed = (self.obs != before) & ((self.obs == self.obs) | (before == before))
        moved = changed.reshape(self.num_lanes, -1).any(1)
        moved[ended] = False
        if moved.any():
            raise EnvError(
                f"lane {np.flatnonzero(moved)[0]}: a reset of other lanes changed it, although "
                "the environment declares AutoresetMode.DISABLED: it must obey "
                "options['reset_mask']"
            )
        if self._masks is not None:
            self._masks.read_some(arrival.info, self.lanes, ended)

    def _read_final(self, ended: np.ndarray, final_obs: Any, out: np.ndarray) -> None:
        """The true last observations, one lane at a time: 2 us for each end."""
        one = np.empty((1, *self.facts.obs_shape), self.facts.obs_dtype)
        for position in ended:
            self._read(batch_of_one(lane_of(final_obs, position)), one)
            out[position] = one[0]

    def _deliver(self, last_obs: np.ndarray, last_mask: np.ndarray | None) -> Step:
        """last_obs [R, *], last_mask [R, A]: those at the end, where an episode ended."""
        told = self._sorted
        made, begun, over, bad = self._sort()
        every, starts = made == self.num_ready, told.start_at[:begun]
        here = slice(None) if every else told.at[:made]
        lanes, next_obs = told.lanes[:made], last_obs[here]
        if bad >= 0:
            self._raise_nonfinite("reward", self._reward[bad : bad + 1], self.lanes[bad:])
        if self.obs.dtype == np.float32:
            self._look("observation", self.obs, self.lanes)
            if last_obs is not self.obs:
                self._look("last observation", next_obs, lanes)
        return Step(
            lanes, told.action[:made], told.reward[:made], told.terminated[:made],
            told.truncated[:made], next_obs, told.start_lanes[:begun], self.obs[starts],
            told.ended_lanes[:over], told.returns[:over], told.lengths[:over],
            None if last_mask is None else last_mask[here],
            None if self.mask is None else self.mask[starts],
        )  # fmt: skip

    def _with_last_starts(self, step: Step, last_obs: np.ndarray) -> Step:
        """In NEXT_STEP a game's last life is a start until the reset tells: here it is one too, so
        that both modes leave equal lanes."""
        at = np.flatnonzero(self._finished & self._terminated)
        return step._replace(
            start_lanes=np.concatenate((self.lanes[at], step.start_lanes)),
            start_obs=np.concatenate((last_obs[at], step.start_obs)),
        )

    def _sort(self) -> tuple[int, int, int, int]:
        return sort(
            self.lanes, self._reward, self._terminated, self._truncated, self._fresh,
            self._begins, self._finished, self._action, self._returns, self._lengths,
            self._steps, self._sorted,
        )  # fmt: skip

    def _compile(self) -> None:
        """Every kernel, before anyone looks at a clock."""
        nobody, none, flags = np.empty(0, np.int64), self._reward[:0], self._over[:0]
        first_nonfinite(none)
        marks = (nobody, flags, flags, True, self._unseen, self._ended, flags, flags, flags)
        tell_apart(*marks)
        if self._lives is not None:
            self._lives.prepare(*marks, flags)
        lanes, self.lanes = self.lanes, nobody
        self._sort()
        hand_out(nobody, nobody, 1, 0, self._action, np.empty(0, self._action_dtype))
        self.lanes = lanes

    def _read(self, obs: Any, out: np.ndarray | None = None) -> None:
        try:
            self._reader.read(obs, self.obs if out is None else out)
        except (ValueError, TypeError, LookupError) as error:
            raise EnvError(str(error)) from error

    def _look(self, what: str, values: np.ndarray, lanes: np.ndarray) -> None:
        flat = values.reshape(-1)
        bad = first_nonfinite(flat)
        if bad >= 0:
            self._raise_nonfinite(what, flat[bad:], lanes[bad // (flat.size // len(lanes)) :])

    def _raise_nonfinite(self, what: str, values: np.ndarray, lanes: np.ndarray) -> None:
        """Of the first of values and lanes."""
        step = self._steps[lanes[0]]
        raise NonFiniteError(f"lane {lanes[0]}, step {step}: {what} is {values[0]}")

    def _ask(self, what: str, question: Callable[[], Any]) -> Any:
        """Let the environments answer; what they raise is told with what led to it."""
        try:
            return question()
        except (Exception, SystemExit) as error:
            failure = explain(self.envs, error)
            own_seeds = isinstance(self.envs.unwrapped, SyncVectorEnv | AsyncVectorEnv)
            place = name_place(
                failure.lane, what, self._steps, self._seed, own_seeds,
                self._action + self.facts.action_start,
            )  # fmt: skip
            told = EnvError(f"{place}: {failure.line}")
            told.trace = failure.trace
            raise told from error
