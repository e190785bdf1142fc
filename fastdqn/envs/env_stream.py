"""EnvStream: separates transitions from episode starts, for every autoreset mode."""

import contextlib
import functools
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
from fastdqn.envs.check_stream_state import checked
from fastdqn.envs.env_calls import EnvCalls
from fastdqn.envs.env_facts import read_facts
from fastdqn.envs.env_state import read_env_state, takes_env_state, write_env_state
from fastdqn.envs.episode_info import EpisodeInfo
from fastdqn.envs.errors import EnvError, LaneFailure
from fastdqn.envs.finite_check import first_nonfinite, require_finite
from fastdqn.envs.infos import as_dict
from fastdqn.envs.life_loss import LifeLosses, may_lose_lives, with_last_starts
from fastdqn.envs.mask_sources import unread_masks
from fastdqn.envs.observations import ObsReader, batch_of_one
from fastdqn.envs.step import Step, lane_of
from fastdqn.envs.sub_env import shared_sub_env
from fastdqn.envs.transitions import Counted, Marks, Sorted, assign_actions, mark_steps, sort
from fastdqn.envs.worker_groups import WorkerGroups
from fastdqn.state_dict import State


class EnvStream:
    """Steps a Gymnasium VectorEnv and separates transitions from episode starts.

    A "lane" is the number of a sub-environment, from 0 to N - 1.

    Attributes:
        lanes: int64[R], the sub-environments that wait for an action now.
        obs: [R, *], their observations. A sub-environment that resets next ignores its action.
        mask: bool[R, A], the allowed actions; None without masks.
        warnings: Likely mistakes of the environments, each also passed to warnings.warn().

    Args:
        envs: Any VectorEnv. The autoreset mode is read from the instance and checked at runtime.
        env_batch_size: R, the sub-environments that recv() waits for. None waits for all N, or for
            the batch size that envs were made with. With R < N their order varies.
        restarts: Total number of failed worker processes that may be replaced. Each replacement
            begins an episode, and env_calls.lost receives its error.
        info_keys: Keys of info whose numbers at episode ends are in Step.info.

    Raises:
        ValueError: The spaces are not supported, or two sub-environments are the same object.
    """

    def __init__(
        self,
        envs: VectorEnv,
        env_batch_size: int | None = None,
        restarts: int = 0,
        info_keys: tuple[str, ...] = (),
    ):
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
        self._backend = connect(envs, env_batch_size, restarts, info_keys)
        n, ready = envs.num_envs, self._backend.num_ready
        if (ready < n or restarts) and self.autoreset_mode == AutoresetMode.DISABLED:
            raise ValueError(
                "env_batch_size below num_envs and restart_envs need an autoreset mode other than "
                "AutoresetMode.DISABLED"
            )
        self.num_lanes, self.num_ready = n, ready
        self.lanes = np.arange(ready)
        self.obs = np.zeros((ready, *self.facts.obs_shape), self.facts.obs_dtype)
        self._masks: MaskReader | None = None
        self._unread_masks = unread_masks(envs)
        same_step = self.autoreset_mode == AutoresetMode.SAME_STEP
        self._info = EpisodeInfo(info_keys, n, same_step) if info_keys else None
        self.info_keys = info_keys
        self._reward = np.zeros(ready, np.float64)
        self._marks = Marks(ready)
        self._loses_lives = may_lose_lives(envs)
        self._mark_steps = LifeLosses(n).mark_steps if self._loses_lives else mark_steps
        self._action_dtype = envs.single_action_space.dtype
        self._next_step = self.autoreset_mode == AutoresetMode.NEXT_STEP
        self._sorted = out = Sorted(ready)
        # The step of every sub-environment in the middle of its episode, made once.
        self._middle = Step(
            out.lanes, out.action, out.reward, out.terminated, out.truncated, self.obs,
            out.start_lanes[:0], self.obs[:0], out.ended_lanes[:0], out.returns[:0],
            out.lengths[:0],
        )  # fmt: skip
        # These have a row for each of the N sub-environments:
        self._counted = counted = Counted(n)
        self._action, self._steps = counted.action, counted.steps
        self._returns, self._lengths = counted.returns, counted.lengths
        self._unseen, self._ended = np.zeros((2, n), np.bool_)  # after its last result
        self.env_calls = EnvCalls(
            envs, self._backend, self._steps, self._action, self.facts.action_start,
            (self._returns, self._lengths, self._steps), self._unseen,
        )  # fmt: skip
        self._given: Any = None  # the last observations as the environment returned them
        self._waits = False  # started, and no call is open
        compile_kernels(self._action_dtype, self._loses_lives)

    @property
    def mask(self) -> np.ndarray | None:
        return None if self._masks is None else self._masks.mask

    def start(self, seed: int | None = None) -> Step:
        """Resets every sub-environment; returns R episode starts and no transition.

        Raises:
            EnvError: An environment raised; the message names the sub-environment and its seed.
        """
        self.env_calls.seed, self._waits = seed, False
        for values in (self._ended, self._returns, self._lengths, self._steps):
            values.fill(0)
        self._unseen.fill(True)
        self._masks = None
        arrival = self.env_calls("reset", lambda: self._backend.reset(seed))
        info = as_dict(arrival.info, self.info_keys)
        if info.get("action_mask") is not None:
            same_step = self.autoreset_mode == AutoresetMode.SAME_STEP
            self._masks = MaskReader(self.num_ready, self.facts.num_actions, same_step)
        elif self._unread_masks is not None:
            self._warn(self._unread_masks)
        return self._process(arrival._replace(info=info), starting=True)

    def send(self, action: np.ndarray) -> None:
        """Sends int64[R] actions, counted from 0, to the sub-environments that wait."""
        action = np.asarray(action, np.int64)
        sent = np.empty(self.lanes.shape, self._action_dtype)  # new, since environments may keep it
        if action.shape != sent.shape or not assign_actions(
            self.lanes, action, self.facts.num_actions, self.facts.action_start, self._action, sent
        ):  # an invalid action would hang an environment in C++
            raise ValueError(
                f"actions must be {len(sent)} integers from 0 to {self.facts.num_actions - 1}, "
                f"got {action}"
            )
        self._waits = False
        self.env_calls("step", lambda: self._backend.send(self.lanes, sent))

    def recv(self) -> Step:
        """Waits for the results of the last send().

        Raises:
            NonFiniteError: A reward or observation is NaN or infinite; names sub-environment and
                step.
            EnvError: An environment raised, died, or does not follow its autoreset mode; names the
                sub-environment, its seed and its last action.
        """
        arrival = self.env_calls("step", self._backend.recv)
        if type(arrival.info) is not dict:
            arrival = arrival._replace(info=as_dict(arrival.info, self.info_keys))
        return self._process(arrival)

    def state(self) -> State:
        """Returns a state dict, from which load_state() continues exactly.

        "envs" is None if the state of the environments cannot be read.

        Raises:
            ValueError: Not called between start() or recv() and send().
        """
        if not self._waits:
            raise ValueError("state() of a stream must follow start() or recv(), before send()")
        whole = self.num_ready == self.num_lanes
        if not whole and isinstance(self._backend, WorkerGroups) and self._backend.in_turns:
            self.env_calls("step", self._backend.finish_steps)
            whole = True
        kept: State = {name: values.copy() for name, values in self._kept().items()}
        return kept | {
            "mask": None if self.mask is None else self.mask.copy(),
            "seed": None if self.env_calls.seed is None else int(self.env_calls.seed),
            "autoreset_mode": self.autoreset_mode.value,
            # With partial batches, other sub-environments have stepped on since.
            "envs": read_env_state(self.envs) if whole else None,
        }

    def load_state(self, state: Any) -> bool:
        """Loads a state dict of a stream over environments made the same way; send() is next.

        Returns:
            False, with nothing changed, if the environments' state is missing or of another kind.
            Call start() then.

        Raises:
            ValueError: A field does not fit, as in write_env_state().
        """
        kept = self._kept()
        new = checked(
            state, kept, self.autoreset_mode.value, self.num_lanes, self.facts.num_actions
        )
        if not takes_env_state(self.envs, new["envs"]):
            return False
        back_end = self._backend
        turns = back_end if isinstance(back_end, WorkerGroups) and back_end.in_turns else None
        if turns is None:
            self.settle()
        else:  # results that have not been received stay, if the state does not fit
            turns.finish_steps()
        write_env_state(self.envs, new["envs"])
        if turns is not None:
            turns.expect_others(new["lanes"])
        # Not copied into the old array, which may belong to the back end.
        self.lanes = new["lanes"]
        for name in kept.keys() - {"lanes"}:
            np.copyto(kept[name], new[name])
        self._masks = None
        if new["mask"] is not None:
            same_step = self.autoreset_mode == AutoresetMode.SAME_STEP
            self._masks = MaskReader(self.num_ready, self.facts.num_actions, same_step)
            self._masks.mask[:] = new["mask"]
        self.env_calls.seed, self._waits = new["seed"], True
        return True

    def _kept(self) -> dict[str, np.ndarray]:
        """Returns the arrays that the next step depends on, by their keys in the state dict."""
        return {
            "lanes": self.lanes, "obs": self.obs, "action": self._action,
            "unseen": self._unseen, "ended": self._ended, "returns": self._returns,
            "lengths": self._lengths, "steps": self._steps,
        }  # fmt: skip

    def settle(self) -> None:
        """Waits for open calls and drops their results. The environments stay open for others."""
        with contextlib.suppress(LaneFailure):  # reported already, or raised by the next call
            self._backend.settle()

    def close(self) -> None:
        """Closes the environments, including worker processes that are busy or dead."""
        self.env_calls("close", self._backend.close)

    def _process(self, arrival: Arrival, starting: bool = False) -> Step:
        """Copies step results, since environments may reuse their arrays, and sorts them."""
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
        count, both = self._mark_steps(
            arrival.info, lanes, marks, self._next_step, self._unseen, self._ended
        )
        if self._info is not None and count:
            self._info.read(arrival.info, lanes, marks.ended)
        before = self.obs.copy() if self._check_final_obs.looks else None
        self._read(arrival.obs)
        self._given = arrival.obs
        if self._masks is not None:
            self._masks.read(arrival.info, lanes, marks.ended, marks.fresh)
        elif arrival.info.get("action_mask") is not None:
            raise EnvError(
                "info['action_mask'] is returned by step() but not by reset(): return it from both"
            )
        last_obs, last_mask = self.obs, self.mask
        if self._next_step and (count or not self._declared):
            paid = -1
            if not self._declared and not starting:
                paid = int((marks.fresh & (self._reward != 0)).argmax())
                paid = paid if marks.fresh[paid] and self._reward[paid] else -1
            require_next_step(lanes, marks.ended, both, arrival.info, paid)
        elif count:
            over = np.flatnonzero(marks.over)  # ale-py has no final_obs for a lost life
            if len(over):
                last_obs, last_mask = self._restart(over, arrival.info)
                if before is not None:
                    self._warn_of_final_obs(int(over[0]), arrival.info, before, last_obs)
        step = self._deliver(last_obs, last_mask)
        if self._loses_lives and not self._next_step and len(step.ended_lanes):
            step = with_last_starts(step, self.lanes, self._marks, last_obs)
        if self._info is not None and len(step.ended_lanes):
            step = step._replace(info=self._take_info(self._info, step.ended_lanes))
        self._waits = True
        return step

    def _take_info(self, info: EpisodeInfo, ended: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the values of info at the ends of episodes. Warns of keys that are missing."""
        found = info.take(ended)
        for line in info.absent(found):
            self._warn(line)
        return found

    def _restart(self, ended: np.ndarray, info: dict) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the observations [R, *] and masks [R, A] from before the reset.

        SAME_STEP has reset the sub-environments in rows ended; with DISABLED this resets them.
        """
        last_obs = self.obs.copy()
        last_mask, restarted = None, self.autoreset_mode == AutoresetMode.SAME_STEP
        if self._masks is not None:
            last_mask = self._masks.before_restart(ended, info, restarted)
        if not restarted:
            self._restart_disabled(ended, info)
        else:
            require_final_obs(int(self.lanes[ended[0]]), info)
            # final_obs: an object array in Gymnasium, dense in ALE, a dict for a Dict space.
            self._read_final(ended, info["final_obs"], last_obs)
        return last_obs, last_mask

    def _warn_of_final_obs(
        self, at: int, info: dict, before: np.ndarray, last_obs: np.ndarray
    ) -> None:
        """Checks one episode end; before [R, *] are the observations one step earlier."""
        line = self._check_final_obs(
            lane_of(info["final_obs"], at), int(self.lanes[at]), before[at], last_obs[at],
            self.obs[at],
        )  # fmt: skip
        if line is not None:
            self._warn(line)

    def _restart_disabled(self, ended: np.ndarray, info: dict) -> None:
        require_no_restart(int(self.lanes[ended[0]]), info)
        before = self.obs.copy()
        arrival = self.env_calls("reset", lambda: self._backend.restart(ended))
        self._read(arrival.obs)
        self._given = arrival.obs
        require_unmoved(before, self.obs, ended)
        if self._masks is not None:
            self._masks.read_some(as_dict(arrival.info), self.lanes, ended)

    def _read_final(self, ended: np.ndarray, final_obs: Any, out: np.ndarray) -> None:
        """Reads the last observations one by one: 2 us for each episode end."""
        one = np.empty((1, *self.facts.obs_shape), self.facts.obs_dtype)
        for position in ended:
            self._read(batch_of_one(lane_of(final_obs, position)), one)
            out[position] = one[0]

    def _deliver(self, last_obs: np.ndarray, last_mask: np.ndarray | None) -> Step:
        """Builds the Step; last_obs [R, *] and last_mask [R, A] are those at episode ends."""
        out = self._sorted
        made, begun, over, bad = sort(self.lanes, self._reward, self._marks, self._counted, out)
        if bad >= 0:
            given = self._reward[bad : bad + 1]
            with np.errstate(over="ignore"):
                stored = given.astype(np.float32)
            require_finite("reward", stored, self.lanes[bad:], self._steps, given)
        if self.obs.dtype == np.float32:
            require_finite("observation", self.obs, self.lanes, self._steps, self._given)
        every = made == self.num_ready
        if every and not begun and not over and self._masks is None:
            return self._middle
        starts = out.start_at[:begun]
        here = slice(None) if every else out.at[:made]
        lanes, next_obs = out.lanes[:made], last_obs[here]
        if self.obs.dtype == np.float32 and last_obs is not self.obs:
            require_finite("last observation", next_obs, lanes, self._steps)
        return Step(
            lanes, out.action[:made], out.reward[:made], out.terminated[:made],
            out.truncated[:made], next_obs, out.start_lanes[:begun], self.obs[starts],
            out.ended_lanes[:over], out.returns[:over], out.lengths[:over],
            None if last_mask is None else last_mask[here],
            None if self.mask is None else self.mask[starts],
        )  # fmt: skip

    def _warn(self, line: str) -> None:
        self.warnings.append(line)
        warnings.warn(line, stacklevel=3)

    def _read(self, obs: Any, out: np.ndarray | None = None) -> None:
        try:
            self._reader.read(obs, self.obs if out is None else out)
        except (ValueError, TypeError, LookupError) as error:
            raise EnvError(str(error)) from error


@functools.cache
def compile_kernels(action_dtype: Any = np.int64, loses_lives: bool = False) -> None:
    """Compiles every kernel of a stream, so that compile time is not measured.

    Args:
        action_dtype: Dtype of the actions that environments take.
        loses_lives: Whether life losses are read from the frame counters of Atari.
    """
    nobody, none, marks = np.empty(0, np.int64), np.empty(0, np.float64), Marks(0)
    flags, frames = np.empty(0, np.bool_), np.empty(0, np.int32)
    info: dict[str, Any] = {"frame_number": frames, "episode_frame_number": frames}
    first_nonfinite(none)
    mark = LifeLosses(0).mark_steps if loses_lives else mark_steps
    mark(info, nobody, marks, True, flags, flags)
    sort(nobody, none, marks, Counted(0), Sorted(0))
    assign_actions(nobody, nobody, 1, 0, nobody, np.empty(0, action_dtype))


def _is_usual(arrival: Arrival, shape: tuple[int, ...]) -> bool:
    """Whether rewards are floats and flags booleans, one for each row, so that no check is due."""
    _, _, reward, terminated, truncated, _ = arrival
    return (
        type(reward) is type(terminated) is type(truncated) is np.ndarray
        and reward.shape == terminated.shape == truncated.shape == shape
        and terminated.dtype.char == truncated.dtype.char == "?"
        and reward.dtype.char in "df"
    )


def _copy_numbers(name: str, given: Any, out: np.ndarray) -> None:
    """Copies one number for each row into out [R]; flags may be any kind of number.

    Raises:
        EnvError: The values are not one number for each row; names them.
    """
    values = np.asarray(given)
    if values.shape != out.shape and values.shape == (*out.shape, 1):
        values = values[:, 0]
    if values.shape != out.shape or values.dtype.kind not in "biuf":
        raise EnvError(
            f"{name} has dtype {values.dtype} and shape {values.shape}: expected one number for "
            f"each sub-environment, shape {out.shape}"
        )
    if out.dtype == np.bool_ and values.dtype.kind == "f" and np.isnan(values).any():
        raise EnvError(f"{name} is nan: expected true or false")
    np.copyto(out, values, casting="unsafe")
