"""SubEnv: the outermost wrapper of every sub-environment made here, and the guard around its calls.

Gymnasium's batching is strict: infos of one shape, rewards that are numbers, flags that are bool,
a close() that returns. Environments that people write are not. What they give is checked and
normalized here once, for every back end, and an environment can share nothing with the run: its
arrays are copied.
"""

import contextlib
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.wrappers import FrameStackObservation

from fastdqn.envs.action_masks import as_mask
from fastdqn.envs.errors import HungError, SentError, misfit, one_line

# Rewards that float() takes at once, and the info of which nothing is read: nobody writes to it.
_SCALARS = (np.float64, np.float32, int)
_NOTHING: dict[str, Any] = {}
# Exceptions that are not the environment's own: they end the call, and are not one of its failures.
NOT_ITS_OWN = (KeyboardInterrupt, HungError)

# Environments that are in use, and those that ever were, by the id() of their innermost object.
_in_use: dict[int, weakref.ref] = {}
_ever_made: dict[int, weakref.ref] = {}


class SubEnv(gymnasium.Wrapper):
    """One sub-environment, whose results have one form whatever class it is of.

    reset() and step() return a copied observation, a float reward, bool flags, and an info that
    holds "action_mask" [A] bool or nothing: the other keys are not read anywhere. What the
    environment's close() raises is ignored.

    copies  whether it stands for copies of it in worker processes, see _register()
    Raises ValueError, one line, where env is no gymnasium.Env, is in use as another
    sub-environment, or gives a result that is not of the form that Gymnasium's interface promises.
    """

    def __init__(self, env: Any, copies: bool = False):
        if isinstance(env, VectorEnv):
            raise ValueError(
                f"the function returned a VectorEnv ({type(env).__name__}), not one environment: "
                "pass the VectorEnv itself"
            )
        if not isinstance(env, gymnasium.Env):
            raise ValueError(
                f"the function returned {type(env).__name__}, not a gymnasium.Env: let it return "
                "a new environment at each call"
            )
        super().__init__(env)
        if env.metadata is None:  # which Gymnasium makes a dict of
            self.metadata = {}
        _register(innermost(env), copies)
        self._num_actions = getattr(env.action_space, "n", None)
        stacks = [layer for layer in layers(env) if isinstance(layer, FrameStackObservation)]
        self._unchecked_stacks, self._steps = stacks, 0

    @property
    def sub_env_time_limit(self) -> int | None:
        """As time_limit_of(), for a parent process that asks by this name."""
        return time_limit_of(self.env)

    def reset(self, **kwargs) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        self._steps = 0
        return _copied(obs), self._used(info)

    def step(self, action) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self._unchecked_stacks:
            self._check_stacks()
        # What has the usual form already costs no call: this runs at every step.
        if type(reward) is not float:
            reward = float(reward) if type(reward) in _SCALARS else _number("reward", reward)
        if type(terminated) is not bool:
            terminated = _flag("terminated", terminated)
        if type(truncated) is not bool:
            truncated = _flag("truncated", truncated)
        if type(info) is dict and "action_mask" not in info:
            info = _NOTHING
        else:
            info = self._used(info, terminated)
        return _copied(obs), reward, terminated, truncated, info

    def close(self) -> None:
        """Close the environment; what it raises must not cost the run its result."""
        _in_use.pop(id(innermost(self.env)), None)
        try:
            self.env.close()
        except NOT_ITS_OWN:  # the next one would hang as well
            raise
        except BaseException:  # SystemExit and GeneratorExit among them
            return

    def _used(self, info: Any, terminated: bool = False) -> dict[str, Any]:
        """The part of an info that is read: the action mask, if there is one."""
        if not isinstance(info, dict):
            raise ValueError(f"info is {type(info).__name__}: a dict expected")
        mask = info.get("action_mask")
        if mask is None:
            return {}
        try:
            return {"action_mask": as_mask(mask, self._num_actions)}
        except ValueError:
            if terminated:  # no action is left to take, so nothing is lost
                return {}
            raise

    def _check_stacks(self) -> None:
        """Warn of stacks whose frames are all one array: they hold the newest frame K times."""
        self._steps += 1
        if self._steps < 2:
            return
        for stack in self._unchecked_stacks:
            frames = list(stack.obs_queue)[-2:]
            if len(frames) == 2 and shares_memory(*frames):
                warnings.warn(
                    f"{type(self.env.unwrapped).__name__} returns the same array at each step, so "
                    "the frames that FrameStackObservation keeps are all the newest one: return "
                    "a copy of it, obs.copy()",
                    stacklevel=2,
                )
        self._unchecked_stacks = []


class RemoteSubEnv(gymnasium.Wrapper):
    """A SubEnv in a worker process: its observations go into shared memory, which takes any shape,
    so they are checked here; what it raises is sent to the parent as a line."""

    def reset(self, **kwargs):
        with _sendable_errors():
            obs, info = self.env.reset(**kwargs)
            return self._checked(obs), info

    def step(self, action):
        with _sendable_errors():
            obs, reward, terminated, truncated, info = self.env.step(action)
            return self._checked(obs), reward, terminated, truncated, info

    def close(self) -> None:
        """Close the environment. One that hangs and is interrupted is given up: in the parent, what
        Gymnasium closes is only the pattern of the workers' environments."""
        with contextlib.suppress(HungError):
            self.env.close()

    def _checked(self, obs):
        if line := misfit(self.observation_space, obs):
            raise ValueError(line)
        return obs


def time_limit_of(env: gymnasium.Env) -> int | None:
    """Steps after which one of its wrappers truncates, the least of them; None without one."""
    limits = [vars(layer).get("_max_episode_steps") for layer in layers(env)]
    known = [int(limit) for limit in limits if isinstance(limit, int | np.integer)]
    return min((limit for limit in known if limit > 0), default=None)


def close_quietly(envs: Any) -> None:
    """Close what a user made: one that cannot be closed must not cost the run its result."""
    try:
        envs.close()
    except KeyboardInterrupt:
        raise
    except BaseException:  # SystemExit among them, and the interrupt of a call that hangs
        return


def sub_envs(envs: VectorEnv) -> list[gymnasium.Env]:
    """The sub-environments of a vector environment that keeps them in a list; else none."""
    while isinstance(envs, VectorWrapper):  # whose unwrapped may be another's
        envs = envs.env
    held = getattr(envs.unwrapped, "envs", None)
    return [each for each in held if isinstance(each, gymnasium.Env)] if held else []


def shared_sub_env(*all_envs: VectorEnv) -> str | None:
    """Why vector environments cannot be used together, in one line, or None: two of their
    sub-environments are the same object, so that each step of one is a step of the other."""
    seen: dict[int, str] = {}
    for number, envs in enumerate(all_envs):
        for i, env in enumerate(sub_envs(envs)):
            name = f"env {i}" + (" of the evaluation" if number else "")
            first = seen.setdefault(id(innermost(env)), name)
            if first != name:
                return f"{first} and {name} {_SAME}"
    return None


def shares_memory(a: Any, b: Any) -> bool:
    """Whether two observations, however nested, have a part in the same memory."""
    if isinstance(a, dict) and isinstance(b, dict):
        return any(shares_memory(a[key], b[key]) for key in a.keys() & b.keys())
    if isinstance(a, tuple) and isinstance(b, tuple):
        return any(map(shares_memory, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.may_share_memory(a, b)
    return False


_SAME = (
    "are the same object, so each would step the other: make a new environment for each, as "
    "`lambda: MyEnv()` does and `lambda: env` does not; in a loop, bind the object, "
    "[lambda env=env: env for env in made]"
)


def _register(env: gymnasium.Env, copies: bool) -> None:
    """Note that an environment is in use.

    copies  whether it is the pattern of copies in other processes, which may be in use at once, but
            must be made for this purpose
    Raises ValueError where it is in use already.
    """
    known = (_ever_made if copies else _in_use).get(id(env))
    if known is not None and known() is env:
        raise ValueError(
            f"the function returned the same {type(env).__name__} object twice: each call must "
            "make a new environment, as `lambda: MyEnv()` does and `lambda: env` does not"
        )
    with contextlib.suppress(TypeError):  # an object that cannot be referred to weakly
        _in_use[id(env)] = _ever_made[id(env)] = weakref.ref(env)


def innermost(env: gymnasium.Env) -> gymnasium.Env:
    """The environment itself, behind all wrappers; unwrapped is theirs to define."""
    *_, env = layers(env)
    return env


def layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """The wrappers from the outermost on, and last the environment itself."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _copied(obs: Any) -> Any:
    """An observation that shares no memory with the environment, which may reuse its arrays."""
    if type(obs) is np.ndarray:
        return obs.copy()
    if isinstance(obs, np.ndarray | np.generic):
        return np.array(obs)
    if isinstance(obs, dict):
        return {key: _copied(value) for key, value in obs.items()}
    if isinstance(obs, tuple):
        return tuple(map(_copied, obs))
    return list(obs) if isinstance(obs, list) else obs


def _flag(name: str, value: Any) -> bool:
    if type(value) is np.bool_:
        return bool(value)
    number = _number(name, value)
    if number not in (0.0, 1.0):
        raise ValueError(f"{name} is {value!r:.60}: true or false expected")
    return bool(number)


def _number(name: str, value: Any) -> float:
    """A number in whatever box it comes: NumPy's, torch's, an array of one."""
    if isinstance(value, float | int | np.floating | np.integer):
        return float(value)
    given = np.asarray(value)
    if given.size != 1 or given.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {value!r:.60} ({type(value).__name__}): one number expected")
    return float(given.reshape(())[()])


@contextlib.contextmanager
def _sendable_errors() -> Iterator[None]:
    """An exception of a user's may not survive the way to the parent; its line does."""
    try:
        yield
    except BaseException as error:
        raise SentError(one_line(error)) from error
