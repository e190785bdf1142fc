"""EnvStream: separates transitions from episode starts, for every autoreset mode."""

import contextlib
import warnings
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from fastdqn.envs.action_masks import MaskReader
from fastdqn.envs.autoreset import (
    FinalObsCheck,
    read_mode,
    require_final_obs,
    require_next_step,
    require_no_restart,
    require_unmoved,
    undeclared,
)
from fastdqn.envs.backend_interface import Arrival
from fastdqn.envs.backends import connect
from fastdqn.envs.env_calls import Asking
from fastdqn.envs.env_state import read_env_state, takes_env_state, write_env_state
from fastdqn.envs.env_stream_state import checked
from fastdqn.envs.errors import EnvError, LaneFailure
from fastdqn.envs.finite_check import first_nonfinite, require_finite
from fastdqn.envs.infos import as_dict
from fastdqn.envs.life_loss import LifeLosses, may_lose_lives, with_last_starts
from fastdqn.envs.observations import ObsReader, batch_of_one
from fastdqn.envs.spaces import read_facts
from fastdqn.envs.step import Step, lane_of
from fastdqn.envs.sub_env import shared_sub_env
from fastdqn.envs.transitions import Marks, Sorted, hand_out, sort, tell_apart
from fastdqn.state_dict import State


class EnvStream:
    """Steps a Gymnasium VectorEnv and separates transitions from episode starts.

    envs  any VectorEnv; its autoreset mode is read from the instance and checked by behaviour
    env_batch_size  R, the lanes whose answers recv() waits for; None: all N, or what envs were
          made with. With R < N the lanes answer in an order of their own.
    restarts  lanes in processes of their own that may be replaced when they fail, in all: each
          then begins an episode, and asking.lost holds a line on it
    lanes [R] int64   the lanes that wait for an action now
    obs   [R, *]      what to act on; a lane whose next call is a reset ignores its action
    mask  [R, A] bool the actions allowed there, as info["action_mask"] says; None without masks
    warnings  lines on what the environments may do wrong, each also given to warnings.warn()
    Raises ValueError where the spaces cannot be trained on, or two sub-environments are one object.
    """

    def __init__(self, envs: VectorEnv, env_batch_size: int | None = None, restarts: int = 0):
        if (line := shared_sub_env(envs)) is not None:
            raise ValueError(line)
        self.envs = envs
        self.facts = read_facts(envs)
        self.warnings: list[str] = []
        self.autoreset_mode, self._declared = read_mode(envs)
        if not self._declared:
            self._warn(undeclared(envs))
        self._check_final_obs = FinalObsCheck(envs, self.autoreset_mode == AutoresetMode.SAME_STEP)
        self._reader = ObsReader(envs.single_observation_space)
        self._backend = connect(envs, env_batch_size, restarts)
        n, ready = envs.num_envs, self._backend.num_ready
        if (ready < n or restarts) and self.autoreset_mode == AutoresetMode.DISABLED:
            raise ValueError(
                "lanes that answer first, or are restarted, need an autoreset mode, not DISABLED"
            )
        self.num_lanes, self.num_ready = n, ready
        self.lanes = np.arange(ready)
        self.obs = np.zeros((ready, *self.facts.obs_shape), self.facts.obs_dtype)
        self._masks: MaskReader | None = None
        self._reward = np.zeros(ready, np.float64)
        self._marks = Marks(ready)
        self._loses_lives = may_lose_lives(envs)
        self._tell_apart = LifeLosses(n).tell_apart if self._loses_lives else tell_apart
        self._action_dtype = envs.single_action_space.dtype
        self._next_step = self.autoreset_mode == AutoresetMode.NEXT_STEP
        self._sorted = Sorted(ready)
        # Of each lane, whether or not it is among those that answered:
        self._action = np.zeros(n, np.int64)
        self._unseen, self._ended = np.zeros((2, n), np.bool_)  # as of its last delivery
        self._returns = np.zeros(n, np.float64)
        self._lengths = np.zeros(n, np.int64)
        self._steps = np.zeros(n, np.int64)  # since start(), for messages
        self._counted = self._action, self._returns, self._lengths, self._steps
        self.asking = Asking(
            envs, self._backend, self._steps, self._action, self.facts.action_start,
            (self._returns, self._lengths, self._steps), self._unseen,
        )  # fmt: skip
        self._given: Any = None  # the observations of the last answer, as they came
        self._waits = False  # whether lanes wait for actions: started, and nothing is under way
        self._compile()

    @property
    def mask(self) -> np.ndarray | None:
        return None if self._masks is None else self._masks.mask

    def start(self, seed: int | None = None) -> Step:
        """Reset every lane; the delivery has R starts and no transition.

        Raises EnvError naming lane and seed where an environment raises.
        """
        self.asking.seed, self._waits = seed, False
        for values in (self._ended, self._returns, self._lengths, self._steps):
            values.fill(0)
        self._unseen.fill(True)
        self._masks = None
        arrival = self.asking("reset", lambda: self._backend.reset(seed))
        info = as_dict(arrival.info)
        if info.get("action_mask") is not None:
            same_step = self.autoreset_mode == AutoresetMode.SAME_STEP
            self._masks = MaskReader(self.num_ready, self.facts.num_actions, same_step)
        return self._tell(arrival._replace(info=info), starting=True)

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
        self.asking("step", lambda: self._backend.send(self.lanes, sent))

    def recv(self) -> Step:
        """Wait for what send() set going.

        Raises NonFiniteError naming lane and step; EnvError where an environment raises, dies, or
        behaves in another way than the autoreset mode that it declares, naming the lane, its seed
        and its last action.
        """
        arrival = self.asking("step", self._backend.recv)
        if type(arrival.info) is not dict:
            arrival = arrival._replace(info=as_dict(arrival.info))
        return self._tell(arrival)

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
            "seed": None if self.asking.seed is None else int(self.asking.seed),
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
            same_step = self.autoreset_mode == AutoresetMode.SAME_STEP
            self._masks = MaskReader(self.num_ready, self.facts.num_actions, same_step)
            self._masks.mask[:] = new["mask"]
        self.asking.seed, self._waits = new["seed"], True
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
        with contextlib.suppress(LaneFailure):  # already reported, or raised by the next call
            self._backend.settle()

    def close(self) -> None:
        """Close the environments, processes under way or dead included."""
        self.asking("close", self._backend.close)

    def _tell(self, arrival: Arrival, starting: bool = False) -> Step:
        """Copy what arrived, since environments may reuse their arrays, and sort it."""
        lanes, marks = arrival.lanes, self._marks
        self.lanes = lanes
        if _is_usual(arrival, self._reward.shape):
            np.copyto(self._reward, arrival.reward)
            np.copyto(marks.terminated, arrival.terminated)
            np.copyto(marks.truncated, arrival.truncated)
        else:
            _copy_numbers("reward", arrival.reward, self._reward)
            _copy_numbers("terminated", arrival.terminated, marks.terminated)
            _copy_numbers("truncated", arrival.truncated, marks.truncated)
        count, both = self._tell_apart(
            arrival.info, lanes, marks, self._next_step, self._unseen, self._ended
        )
        before = self.obs.copy() if self._check_final_obs.looks else None
        self._read(arrival.obs)
        self._given = arrival.obs
        if self._masks is not None:
            self._masks.read(arrival.info, lanes, marks.ended, marks.fresh)
        elif arrival.info.get("action_mask") is not None:
            raise EnvError("info['action_mask'] is given by step() and not by reset(): give both")
        last_obs, last_mask = self.obs, self.mask
        if self._next_step and (count or not self._declared):
            paid = -1
            if not self._declared and not starting:
                paid = int((marks.fresh & (self._reward != 0)).argmax())
                paid = paid if marks.fresh[paid] and self._reward[paid] else -1
            require_next_step(lanes, marks.ended, both, arrival.info, paid)
        elif count:
            over = np.flatnonzero(marks.over)  # of a lost life ale-py's final_obs tells nothing
            if len(over):
                last_obs, last_mask = self._restart(over, arrival.info)
                if before is not None:
                    self._warn_of_final_obs(int(over[0]), arrival.info, before, last_obs)
        step = self._deliver(last_obs, last_mask)
        if self._loses_lives and not self._next_step and len(step.ended_lanes):
            step = with_last_starts(step, self.lanes, self._marks, last_obs)
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

    def _warn_of_final_obs(
        self, at: int, info: dict, before: np.ndarray, last_obs: np.ndarray
    ) -> None:
        """Look at the end at one position; before [R, *] is what was observed a step earlier."""
        line = self._check_final_obs(
            lane_of(info["final_obs"], at), int(self.lanes[at]), before[at], last_obs[at],
            self.obs[at],
        )  # fmt: skip
        if line is not None:
            self._warn(line)

    def _restart_disabled(self, ended: np.ndarray, info: dict) -> None:
        require_no_restart(int(self.lanes[ended[0]]), info)
        before = self.obs.copy()
        arrival = self.asking("reset", lambda: self._backend.restart(ended))
        self._read(arrival.obs)
        self._given = arrival.obs
        require_unmoved(before, self.obs, ended)
        if self._masks is not None:
            self._masks.read_some(as_dict(arrival.info), self.lanes, ended)

    def _read_final(self, ended: np.ndarray, final_obs: Any, out: np.ndarray) -> None:
        """The true last observations, one lane at a time: 2 us for each end."""
        one = np.empty((1, *self.facts.obs_shape), self.facts.obs_dtype)
        for position in ended:
            self._read(batch_of_one(lane_of(final_obs, position)), one)
            out[position] = one[0]

    def _deliver(self, last_obs: np.ndarray, last_mask: np.ndarray | None) -> Step:
        """last_obs [R, *], last_mask [R, A]: those at the end, where an episode ended."""
        told = self._sorted
        made, begun, over, bad = sort(self.lanes, self._reward, self._marks, *self._counted, told)
        every, starts = made == self.num_ready, told.start_at[:begun]
        here = slice(None) if every else told.at[:made]
        lanes, next_obs = told.lanes[:made], last_obs[here]
        if bad >= 0:
            given = self._reward[bad : bad + 1]
            with np.errstate(over="ignore"):
                stored = given.astype(np.float32)
            require_finite("reward", stored, self.lanes[bad:], self._steps, given)
        if self.obs.dtype == np.float32:
            require_finite("observation", self.obs, self.lanes, self._steps, self._given)
            if last_obs is not self.obs:
                require_finite("last observation", next_obs, lanes, self._steps)
        return Step(
            lanes, told.action[:made], told.reward[:made], told.terminated[:made],
            told.truncated[:made], next_obs, told.start_lanes[:begun], self.obs[starts],
            told.ended_lanes[:over], told.returns[:over], told.lengths[:over],
            None if last_mask is None else last_mask[here],
            None if self.mask is None else self.mask[starts],
        )  # fmt: skip

    def _warn(self, line: str) -> None:
        self.warnings.append(line)
        warnings.warn(line, stacklevel=3)

    def _compile(self) -> None:
        """Every kernel, before anyone looks at a clock."""
        nobody, none, marks = np.empty(0, np.int64), self._reward[:0], Marks(0)
        first_nonfinite(none)
        frames = np.empty(0, np.int32)
        info: dict[str, Any] = {"frame_number": frames, "episode_frame_number": frames}
        self._tell_apart(info, nobody, marks, True, self._unseen, self._ended)
        sort(nobody, none, marks, *self._counted, self._sorted)
        hand_out(nobody, nobody, 1, 0, self._action, np.empty(0, self._action_dtype))

    def _read(self, obs: Any, out: np.ndarray | None = None) -> None:
        try:
            self._reader.read(obs, self.obs if out is None else out)
        except (ValueError, TypeError, LookupError) as error:
            raise EnvError(str(error)) from error


def _is_usual(arrival: Arrival, shape: tuple[int, ...]) -> bool:
    """Whether rewards and flags need no second look: floats and booleans, one for each lane."""
    _, _, reward, terminated, truncated, _ = arrival
    return (
        type(reward) is type(terminated) is type(truncated) is np.ndarray
        and reward.shape == terminated.shape == truncated.shape == shape
        and terminated.dtype.char == truncated.dtype.char == "?"
        and reward.dtype.char in "df"
    )


def _copy_numbers(name: str, given: Any, out: np.ndarray) -> None:
    """Copy one number of each lane into out [R]; flags may be of any kind of number.

    Raises EnvError naming what is not one number a lane.
    """
    values = np.asarray(given)
    if values.shape != out.shape and values.shape == (*out.shape, 1):
        values = values[:, 0]
    if values.shape != out.shape or values.dtype.kind not in "biuf":
        raise EnvError(
            f"{name} is {values.dtype} of shape {values.shape}: one number for each lane, "
            f"{out.shape}, expected"
        )
    if out.dtype == np.bool_ and values.dtype.kind == "f" and np.isnan(values).any():
        raise EnvError(f"{name} is nan: true or false expected")
    np.copyto(out, values, casting="unsafe")
