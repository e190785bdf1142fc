"""SubEnv: the outermost wrapper of every sub-environment, which normalizes its results.

Gymnasium's batching is strict: infos of one shape, rewards that are numbers, flags that are bool, a
close() that returns. User environments often differ. Their results are checked and normalized here
once, for every back end, and their arrays are copied, so that they share no memory with the run.
"""

import contextlib
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import FrameStackObservation

from fastdqn.envs.action_masks import FROM_INFO, as_mask
from fastdqn.envs.env_layers import innermost, layers, sub_envs
from fastdqn.envs.errors import HungError, ResultError, SentError, misfit, one_line
from fastdqn.envs.infos import number_of
from fastdqn.envs.mask_sources import find_mask_source

# Reward types that float() converts at once, and the empty info, which is never modified.
_SCALARS = (np.float64, np.float32, int)
_NOTHING: dict[str, Any] = {}
# Exceptions that end a call from outside and are not failures of the environment.
NOT_ITS_OWN = (KeyboardInterrupt, HungError)
# A time limit that is none. EnvPool's value is above this.
UNLIMITED = 1 << 30

# Environments in use, and all that were ever made, by the id() of their innermost object.
_in_use: dict[int, weakref.ref] = {}
_ever_made: dict[int, weakref.ref] = {}


class SubEnv(gymnasium.Wrapper):
    """One sub-environment with results of a fixed form.

    reset() and step() return a copied observation, a float reward, bool flags, and an info with
    "action_mask", bool[A], if there is one, and numbers of info_keys at an episode end. A mask that
    the environment keeps elsewhere is put there, see find_mask_source(). Errors of close() are
    ignored.

    Attributes:
        mask_source: Where the last mask was found.

    Args:
        env: The environment.
        copies: Whether it is a template for copies in worker processes, see _register().
        info_keys: Keys of info that are used.

    Raises:
        ValueError: env is not a gymnasium.Env, is in use as another sub-environment, or returns a
            result that does not follow Gymnasium's interface.
    """

    def __init__(self, env: Any, copies: bool = False, info_keys: tuple[str, ...] = ()):
        if isinstance(env, VectorEnv):
            raise ValueError(
                f"the function returned a VectorEnv ({type(env).__name__}), not a single "
                "environment: pass the VectorEnv itself"
            )
        if not isinstance(env, gymnasium.Env):
            raise ValueError(
                f"the function returned {type(env).__name__}, not a gymnasium.Env: return a new "
                "environment from each call"
            )
        super().__init__(env)
        if env.metadata is None:  # Gymnasium needs a dict
            self.metadata = {}
        _register(innermost(env), copies)
        self._info_keys = info_keys
        self._num_actions = getattr(env.action_space, "n", None)
        self._masks_elsewhere, self.mask_source = find_mask_source(env), FROM_INFO
        stacks = [layer for layer in layers(env) if isinstance(layer, FrameStackObservation)]
        self._unchecked_stacks, self._steps = stacks, 0

    @property
    def sub_env_time_limit(self) -> int | None:
        """time_limit_of() as an attribute that a parent process can read."""
        return time_limit_of(self.env)

    @property
    def is_plain(self) -> bool:
        """Whether a result in the fixed form without an info needs no further look."""
        return not self._unchecked_stacks and self._masks_elsewhere is None

    def reset(self, **kwargs) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        self._steps = 0
        return _copied(obs), self._used(obs, info)

    def step(self, action) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.step_in_place(action)
        return _copied(obs), reward, terminated, truncated, info

    def step_in_place(self, action) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As step(), with the environment's own observation, which its next step may overwrite."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self._unchecked_stacks:
            self._check_stacks()
        return self.normalized(obs, reward, terminated, truncated, info)

    def normalized(
        self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: Any
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Returns the result of a step with its values in their fixed form; raises ResultError."""
        # This runs at every step, so values of the usual form cause no call.
        if type(reward) is not float:
            reward = float(reward) if type(reward) in _SCALARS else _number("reward", reward)
        if type(terminated) is not bool:
            terminated = _flag("terminated", terminated)
        if type(truncated) is not bool:
            truncated = _flag("truncated", truncated)
        ends = self._info_keys and (terminated or truncated)
        if (
            type(info) is dict
            and "action_mask" not in info
            and self._masks_elsewhere is None
            and not ends
        ):
            info = _NOTHING
        elif ends:
            info = self._used(obs, info, terminated) | self._numbers(info)
        else:
            info = self._used(obs, info, terminated)
        return obs, reward, terminated, truncated, info

    def close(self) -> None:
        """Closes the environment; its errors must not cost the run its result."""
        _in_use.pop(id(innermost(self.env)), None)
        try:
            self.env.close()
        except NOT_ITS_OWN:  # closing the next one would hang as well
            raise
        except BaseException:  # including SystemExit and GeneratorExit
            return

    def _used(self, obs: Any, info: Any, terminated: bool = False) -> dict[str, Any]:
        """Returns the part of an info that is used: the action mask, if any."""
        if not isinstance(info, dict):
            raise ResultError(f"info is {type(info).__name__}: expected a dict")
        mask, self.mask_source = info.get("action_mask"), FROM_INFO
        try:
            # A method may raise once the episode is over, when no action is taken.
            if mask is None and self._masks_elsewhere is not None and not terminated:
                self.mask_source = self._masks_elsewhere.name
                mask = self._masks_elsewhere.read(obs)
            if mask is None:
                return {}
            return {"action_mask": as_mask(mask, self._num_actions, self.mask_source)}
        except ValueError:
            if terminated:  # no action is taken, so the mask is not needed
                return {}
            raise

    def _numbers(self, info: dict[str, Any]) -> dict[str, float]:
        """Returns the numbers of info_keys."""
        found = {key: number_of(info.get(key)) for key in self._info_keys}
        return {key: number for key, number in found.items() if number is not None}

    def _check_stacks(self) -> None:
        """Warns of frame stacks whose frames are one array: they repeat the newest frame."""
        self._steps += 1
        if self._steps < 2:
            return
        for stack in self._unchecked_stacks:
            frames = list(stack.obs_queue)[-2:]
            if len(frames) == 2 and shares_memory(*frames):
                warnings.warn(
                    f"{type(self.env.unwrapped).__name__} returns the same array at each step, so "
                    "all frames in FrameStackObservation are the newest one. Return a copy, "
                    "obs.copy()",
                    stacklevel=2,
                )
        self._unchecked_stacks = []


class RemoteSubEnv(gymnasium.Wrapper):
    """A SubEnv in a worker process.

    Its observations are checked here, since shared memory accepts any shape. Its errors are sent to
    the parent as one line.
    """

    def reset(self, **kwargs):
        with _sendable_errors():
            obs, info = self.env.reset(**kwargs)
            return self._checked(obs), info

    def step(self, action):
        with _sendable_errors():
            obs, reward, terminated, truncated, info = self.env.step(action)
            return self._checked(obs), reward, terminated, truncated, info

    def close(self) -> None:
        """Closes the environment, and gives up one that hangs.

        In the parent process, Gymnasium closes only the template of the workers' environments.
        """
        with contextlib.suppress(HungError):
            self.env.close()

    def _checked(self, obs):
        if line := misfit(self.observation_space, obs):
            raise ResultError(line)
        return obs


def time_limit_of(env: gymnasium.Env) -> int | None:
    """Returns the smallest limit of the TimeLimit wrappers, or None."""
    limits = [vars(layer).get("_max_episode_steps") for layer in layers(env)]
    known = [int(limit) for limit in limits if isinstance(limit, int | np.integer)]
    return min((limit for limit in known if limit > 0), default=None)


def close_quietly(envs: Any) -> None:
    """Closes user objects; an error must not cost the run its result."""
    try:
        envs.close()
    except KeyboardInterrupt:
        raise
    except BaseException:  # including SystemExit and the interrupt of a hanging call
        return


def shared_sub_env(*all_envs: VectorEnv) -> str | None:
    """Returns why vector environments cannot be used together, in one line, or None.

    They cannot if two sub-environments are the same object: a step of one would step the other.
    """
    seen: dict[int, str] = {}
    for number, envs in enumerate(all_envs):
        for i, env in enumerate(sub_envs(envs)):
            name = f"env {i}" + (" of the evaluation" if number else "")
            first = seen.setdefault(id(innermost(env)), name)
            if first != name:
                return f"{first} and {name} {_SAME}"
    return None


def shares_memory(a: Any, b: Any) -> bool:
    """Whether two observations, however nested, share memory."""
    if isinstance(a, dict) and isinstance(b, dict):
        return any(shares_memory(a[key], b[key]) for key in a.keys() & b.keys())
    if isinstance(a, tuple) and isinstance(b, tuple):
        return any(map(shares_memory, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.may_share_memory(a, b)
    return False


_SAME = (
    "are the same object, so each would step the other. Make a new environment for each: use "
    "`lambda: MyEnv()`, not `lambda: env`. In a loop, bind the object: "
    "[lambda env=env: env for env in made]"
)


def _register(env: gymnasium.Env, copies: bool) -> None:
    """Records that an environment is in use; raises ValueError if it already is.

    copies: the environment is a template for copies in worker processes. It may be in use several
    times, but must have been made for this purpose.
    """
    known = (_ever_made if copies else _in_use).get(id(env))
    if known is not None and known() is env:
        raise ValueError(
            f"the function returned the same {type(env).__name__} object twice. Each call must "
            "make a new environment: use `lambda: MyEnv()`, not `lambda: env`"
        )
    with contextlib.suppress(TypeError):  # an object without weak references
        _in_use[id(env)] = _ever_made[id(env)] = weakref.ref(env)


def _copied(obs: Any) -> Any:
    """Copies an observation, since the environment may reuse its arrays."""
    if type(obs) is np.ndarray:
        return obs.copy()
    if isinstance(obs, dict):
        return {
            key: value.copy() if type(value) is np.ndarray else _copied(value)
            for key, value in obs.items()
        }
    if isinstance(obs, np.ndarray | np.generic):
        return np.array(obs)
    if isinstance(obs, tuple):
        return tuple(map(_copied, obs))
    return list(obs) if isinstance(obs, list) else obs


def _flag(name: str, value: Any) -> bool:
    if type(value) is np.bool_:
        return bool(value)
    number = _number(name, value)
    if number not in (0.0, 1.0):
        raise ResultError(f"{name} is {value!r:.60}: expected true or false")
    return bool(number)


def _number(name: str, value: Any) -> float:
    """Converts a number of any type to float: NumPy, torch or an array with one element."""
    if isinstance(value, float | int | np.floating | np.integer):
        return float(value)
    given = np.asarray(value)
    if given.size != 1 or given.dtype.kind not in "biuf":
        raise ResultError(f"{name} is {value!r:.60} ({type(value).__name__}): expected one number")
    return float(given.reshape(())[()])


@contextlib.contextmanager
def _sendable_errors() -> Iterator[None]:
    """Converts exceptions to SentError: a user-defined one may not be picklable."""
    try:
        yield
    except BaseException as error:
        raise SentError(one_line(error)) from error
