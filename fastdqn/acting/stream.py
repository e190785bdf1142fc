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
from fastdqn.acting.failures import EnvError, LaneFailure, NonFiniteError, explain
from fastdqn.acting.masks import MaskReader
from fastdqn.acting.observations import ObsReader, batch_of_one
from fastdqn.acting.spaces import read_spaces
from fastdqn.acting.step import Step, first_nonfinite, lane_of
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
        self._terminated, self._truncated = np.zeros((2, ready), np.bool_)
        # Of each lane, whether or not it is among those that answered:
        self._action = np.zeros(n, np.int64)
        self._unseen, self._ended = np.zeros((2, n), np.bool_)  # as of its last delivery
        self._returns = np.zeros(n, np.float64)
        self._lengths = np.zeros(n, np.int64)
        self._steps = np.zeros(n, np.int64)  # since start(), for messages
        self._seed: int | None = None
        self._waits = False  # whether lanes wait for actions: started, and nothing is under way
        first_nonfinite(self._reward)  # compiled before anyone looks at a clock

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
        action = np.asarray(action)
        if action.min() < 0 or action.max() >= self.facts.num_actions:  # C++ would hang on it
            raise ValueError(f"actions must be from 0 to {self.facts.num_actions - 1}: {action}")
        self._action[self.lanes] = action
        self._waits = False
        sent = (action + self.facts.action_start).astype(self.envs.single_action_space.dtype)
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
        ended = self._terminated | self._truncated
        fresh = self._unseen[lanes]  # first observations; nothing was done to get there
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            fresh |= self._ended[lanes]
        self._unseen[lanes], self._ended[lanes] = False, ended
        self._read(arrival.obs)
        if self._masks is not None:
            # Under SAME_STEP a lane that ended has restarted, and must act like any other.
            over = ended & (self.autoreset_mode != AutoresetMode.SAME_STEP)
            self._masks.read(arrival.info, lanes, over)
        elif "action_mask" in arrival.info:
            raise EnvError("info['action_mask'] is given by step() and not by reset(): give both")
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            require_next_step(lanes, ended, fresh, arrival.info)
            begun, last_obs, last_mask = fresh, self.obs, self.mask
        else:
            begun, last_obs, last_mask = fresh | ended, self.obs, self.mask
            if ended.any():
                last_obs, last_mask = self._restart(np.flatnonzero(ended), arrival.info)
        step = self._deliver(~fresh, begun, ended, last_obs, last_mask)
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

    def _deliver(self, made, begun, ended, last_obs, last_mask) -> Step:
        """made, begun, ended [R] bool: positions with a transition, a start, an end."""
        every = bool(made.all())
        here = slice(None) if every else np.flatnonzero(made)
        lanes, next_obs = self.lanes[here], last_obs[here]
        reward = self._reward[here]
        self._steps[lanes] += 1
        self._raise_nonfinite("reward", reward, lanes)
        if self.obs.dtype == np.float32:
            self._raise_nonfinite("observation", self.obs, self.lanes)
            if last_obs is not self.obs:
                self._raise_nonfinite("last observation", next_obs, lanes)
        self._returns[lanes] += reward
        self._lengths[lanes] += 1
        ended_lanes = self.lanes[ended]
        returns, lengths = self._returns[ended_lanes], self._lengths[ended_lanes]
        self._returns[ended_lanes] = 0.0
        self._lengths[ended_lanes] = 0
        start_mask = None if self.mask is None else self.mask[begun]
        return Step(
            lanes, self._action[lanes], reward, self._terminated[here], self._truncated[here],
            next_obs, self.lanes[begun], self.obs[begun], ended_lanes, returns, lengths,
            None if last_mask is None else last_mask[here], start_mask,
        )  # fmt: skip

    def _read(self, obs: Any, out: np.ndarray | None = None) -> None:
        try:
            self._reader.read(obs, self.obs if out is None else out)
        except (ValueError, TypeError, LookupError) as error:
            raise EnvError(str(error)) from error

    def _raise_nonfinite(self, what: str, values, lanes) -> None:
        flat = values.reshape(-1)
        bad = first_nonfinite(flat)
        if bad >= 0:
            lane = lanes[bad // (flat.size // len(lanes))]
            raise NonFiniteError(f"lane {lane}, step {self._steps[lane]}: {what} is {flat[bad]}")

    def _ask(self, what: str, question: Callable[[], Any]) -> Any:
        """Let the environments answer; what they raise is told with what led to it."""
        try:
            return question()
        except (Exception, SystemExit) as error:
            failure = explain(self.envs, error)
            told = EnvError(f"{self._place(failure.lane, what)}: {failure.line}")
            told.trace = failure.trace
            raise told from error

    def _place(self, lane: int, what: str) -> str:
        """Who failed, and what led to it: lane, step, seed, last action."""
        if lane < 0:
            return f"the environments failed in {what}() after {self._steps.max()} steps" + (
                "" if self._seed is None else f" (seed {self._seed})"
            )
        own_seeds = isinstance(self.envs.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        seed = self._seed + lane if own_seeds and self._seed is not None else self._seed
        told = [] if seed is None else [f"seed {seed}"]
        if what == "step":
            told.append(f"last action {self._action[lane] + self.facts.action_start}")
        where = "reset" if what == "reset" else f"step {self._steps[lane] + 1}"
        return f"lane {lane}, {where}" + (f" ({', '.join(told)})" if told else "")
