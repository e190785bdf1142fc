"""EnvStream: what really happened in a vector environment, told alike for every autoreset mode."""

from typing import NamedTuple

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from fastdqn.acting.spaces import read_spaces
from fastdqn.kernels import kernel


class Step(NamedTuple):
    """One delivery: M transitions, then S episode starts, and the E episodes that ended in it.

    lanes [M] int64 · action [M] int64, from 0 · reward [M] float32
    terminated, truncated [M] bool · next_obs [M, *] the true last observation at an end
    start_lanes [S] int64 · start_obs [S, *]
    ended_lanes [E] int64 · returns [E] float64, undiscounted · lengths [E] int64, steps
    The arrays belong to the stream and are overwritten by the next delivery.
    """

    lanes: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: np.ndarray
    start_lanes: np.ndarray
    start_obs: np.ndarray
    ended_lanes: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray


class NonFiniteError(ValueError):
    """NaN or infinity came out of an environment."""


class EnvError(RuntimeError):
    """An environment does not do what its interface or its metadata promises."""


class EnvStream:
    """Steps a Gymnasium VectorEnv and separates transitions from episode starts.

    envs  any VectorEnv; its autoreset mode is read from the instance and checked by behaviour
    obs   [N, *] what to act on now; a lane whose next call is a reset ignores its action
    Raises ValueError where the spaces cannot be trained on.
    """

    def __init__(self, envs: VectorEnv):
        self.envs = envs
        self.facts = read_spaces(envs.single_observation_space, envs.single_action_space)
        self.autoreset_mode = _read_mode(envs)
        n = self.num_lanes = envs.num_envs
        self.obs = np.zeros((n, *self.facts.obs_shape), self.facts.obs_dtype)
        self._all = np.arange(n)
        self._action = np.zeros(n, np.int64)
        self._sent = np.zeros(n, envs.single_action_space.dtype)
        self._reward = np.zeros(n, np.float32)
        self._terminated = np.zeros(n, np.bool_)
        self._truncated = np.zeros(n, np.bool_)
        self._ended = np.zeros(n, np.bool_)  # in the last delivery
        self._returns = np.zeros(n, np.float64)
        self._lengths = np.zeros(n, np.int64)
        self._steps = np.zeros(n, np.int64)  # of each lane since start(), for messages
        _first_nonfinite(self._reward)  # compiled before anyone looks at a clock

    def start(self, seed: int | None = None) -> Step:
        """Reset every lane; the delivery has N starts and no transition."""
        obs, _ = self.envs.reset(seed=seed)
        self._receive_obs(obs)
        for values in (self._reward, self._ended, self._returns, self._lengths, self._steps):
            values.fill(0)
        return self._deliver(self._all[:0], self.obs[:0], self._all)

    def send(self, action: np.ndarray) -> None:
        """Hand each lane its action [N] int64, counted from 0; async lanes begin at once."""
        np.copyto(self._action, action)
        np.add(self._action, self.facts.action_start, out=self._sent, casting="unsafe")
        if isinstance(self.envs, AsyncVectorEnv):
            self.envs.step_async(self._sent)

    def recv(self) -> Step:
        """Wait for what send() set going.

        Raises NonFiniteError naming lane and step; EnvError where the environment's
        behaviour contradicts the autoreset mode that it declares.
        """
        if isinstance(self.envs, AsyncVectorEnv):
            obs, reward, terminated, truncated, info = self.envs.step_wait()
        else:
            obs, reward, terminated, truncated, info = self.envs.step(self._sent)
        # All of it is copied: an environment may reuse its arrays, or clear them in a reset.
        np.copyto(self._reward, reward, casting="unsafe")
        np.copyto(self._terminated, terminated)
        np.copyto(self._truncated, truncated)
        self._receive_obs(obs)
        resetting, self._ended = self._ended, self._terminated | self._truncated
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            lanes, starts, next_obs = self._split(resetting, info)
        else:
            lanes, starts = self._all, np.flatnonzero(self._ended)
            next_obs = self._restart(starts, info) if len(starts) else self.obs
        return self._deliver(lanes, next_obs, starts)

    def close(self) -> None:
        self.envs.close()

    def _split(self, resetting, info):
        """NEXT_STEP: the lanes that ended one call ago were reset now, and made no step."""
        # An end that brings final_obs was reset in the same call: its obs is of the next episode.
        contrary = self._ended if "final_obs" in info else self._ended & resetting
        if contrary.any():
            raise EnvError(
                f"lane {np.flatnonzero(contrary)[0]}: an episode's end was not followed by a call "
                "that resets, although the environment declares AutoresetMode.NEXT_STEP; let its "
                "metadata['autoreset_mode'] say what it does"
            )
        if not resetting.any():
            return self._all, self._all[:0], self.obs
        lanes = np.flatnonzero(~resetting)
        return lanes, np.flatnonzero(resetting), self.obs[lanes]

    def _restart(self, ended_lanes, info) -> np.ndarray:
        """SAME_STEP has restarted the lanes that ended, DISABLED is told to; returns [N, *]
        the observations from before that."""
        next_obs = self.obs.copy()
        if self.autoreset_mode == AutoresetMode.DISABLED:
            if "final_obs" in info:
                raise EnvError(
                    f"lane {ended_lanes[0]}: an episode's end was reset in the same call, although "
                    "the environment declares AutoresetMode.DISABLED; let its "
                    "metadata['autoreset_mode'] say what it does"
                )
            # Gymnasium pops the mask from the dict and may keep it: both are made anew.
            obs, _ = self.envs.reset(options={"reset_mask": self._ended.copy()})
            self._receive_obs(obs)
            moved = (self.obs != next_obs).reshape(self.num_lanes, -1).any(1) & ~self._ended
            if moved.any():
                raise EnvError(
                    f"lane {np.flatnonzero(moved)[0]}: a reset of other lanes changed it, although "
                    "the environment declares AutoresetMode.DISABLED: it must obey "
                    "options['reset_mask']"
                )
        elif "final_obs" in info:
            # An object array in Gymnasium, a dense one in ALE: lane by lane, 2 us for each end.
            for lane in ended_lanes:
                next_obs[lane] = info["final_obs"][lane]
        else:
            raise EnvError(
                f"lane {ended_lanes[0]}: an episode ended without infos['final_obs'], although "
                "the environment declares AutoresetMode.SAME_STEP; let its "
                "metadata['autoreset_mode'] say what it does"
            )
        return next_obs

    def _deliver(self, lanes, next_obs, start_lanes) -> Step:
        self._steps[lanes] += 1
        self._check_finite(next_obs)
        every = len(lanes) == self.num_lanes
        action, reward, terminated, truncated = (
            values if every else values[lanes]
            for values in (self._action, self._reward, self._terminated, self._truncated)
        )
        self._returns[lanes] += reward
        self._lengths[lanes] += 1
        ended_lanes = np.flatnonzero(self._ended)
        returns, lengths = self._returns[ended_lanes], self._lengths[ended_lanes]
        self._returns[ended_lanes] = 0.0
        self._lengths[ended_lanes] = 0
        return Step(
            lanes, action, reward, terminated, truncated, next_obs,
            start_lanes, self.obs[start_lanes], ended_lanes, returns, lengths,
        )  # fmt: skip

    def _receive_obs(self, obs) -> None:
        """Copy, since environments may reuse their arrays; wide types become float32 here."""
        obs = np.asarray(obs)
        if obs.shape != self.obs.shape:
            raise EnvError(
                f"observations have shape {obs.shape}, the space promises {self.obs.shape}"
            )
        np.copyto(self.obs, obs, casting="unsafe")

    def _check_finite(self, next_obs) -> None:
        self._raise_nonfinite("reward", self._reward)
        if self.obs.dtype == np.float32:
            self._raise_nonfinite("observation", self.obs)
            if len(next_obs) == self.num_lanes and next_obs is not self.obs:
                self._raise_nonfinite("last observation", next_obs)

    def _raise_nonfinite(self, what: str, values) -> None:
        flat = values.reshape(-1)
        bad = _first_nonfinite(flat)
        if bad >= 0:
            lane = bad // (flat.size // self.num_lanes)
            raise NonFiniteError(f"lane {lane}, step {self._steps[lane]}: {what} is {flat[bad]}")


def _read_mode(envs: VectorEnv) -> AutoresetMode:
    """The instance's own mode; class-level metadata may speak of another instance."""
    mode = getattr(envs.unwrapped, "autoreset_mode", None)
    if mode is None:
        mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    return AutoresetMode(mode)


@kernel
def _first_nonfinite(flat):
    """Index of the first NaN or infinity in flat [L] float32, or -1."""
    for i in range(len(flat)):
        if not np.isfinite(flat[i]):
            return i
    return -1
