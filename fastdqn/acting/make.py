"""Making vector environments of an id or a factory, with errors that say what to do."""

import contextlib
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import _async_worker

from fastdqn import atari
from fastdqn.acting.atari_lanes import make_atari
from fastdqn.acting.care import GROUP_SIGNALS
from fastdqn.acting.cartpole import FastCartPole
from fastdqn.acting.failures import HungError, SentError, misfit, one_line
from fastdqn.acting.names import find_spec, find_wrapper, nearest

VECTORIZATIONS = ("auto", "native", "sync", "async", "envpool")
Factory = Callable[..., gymnasium.Env]
# A process that is killed closes one pipe a moment after another. Ours, untuned.
_PARENT_SECONDS = 1.0


@dataclass(frozen=True)
class EnvRecipe:
    """How the lanes of a run are made.

    env            id of a registered environment, or a function that makes one
    vectorization  auto, native (a vector class that the id registers), sync, async or envpool
    kwargs         of the environment's constructor
    wrappers       names, see find_wrapper(); put around each lane, the first innermost
    atari_protocol  auto, or a name in atari.PROTOCOLS, of ale-py's own vector environments
    """

    env: str | Factory
    vectorization: str = "auto"
    kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    atari_protocol: str = "auto"

    def __str__(self) -> str:
        return self.env if isinstance(self.env, str) else getattr(self.env, "__name__", "factory")

    def resolve(self) -> str:
        """Turn auto into native where the id registers a vector class and nothing is wrapped
        around a lane, else sync. Raises ValueError where the id does not exist."""
        if self.vectorization != "auto":
            return self.vectorization
        return "native" if not self.wrappers and self._has_native() else "sync"

    def make(
        self,
        num_envs: int,
        *,
        seed: int = 0,
        env_batch_size: int | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> VectorEnv:
        """Make num_envs lanes.

        seed, env_batch_size  of EnvPool, and the latter of ale-py, which take them here; other
            lanes are seeded by reset()
        autoreset_mode  of sync and async; the others have their own
        Raises ValueError, one line, where the id, a dependency or the mode is not there.
        """
        mode = self.resolve()
        if mode == "envpool":
            return _make_envpool(self, num_envs, env_batch_size or num_envs, seed)
        if mode == "native":
            return self._make_native(num_envs, env_batch_size)
        lane = self._lane_maker(_CheckedLane if mode == "async" else None)
        # The stream copies what it keeps, so the environments need not copy it once more.
        options: Any = {"autoreset_mode": autoreset_mode, "copy": False}
        with _named_errors(str(self)):
            if mode == "sync":
                return SyncVectorEnv([lane] * num_envs, **options)
            try:
                with _deaf_children():
                    return AsyncVectorEnv([lane] * num_envs, worker=_lane_process, **options)
            except (EOFError, OSError):
                raise RuntimeError(
                    "a lane's process ended while its environment was made, see above"
                ) from None

    def atari_settings(self) -> dict[str, Any] | None:
        """Every setting of Atari's lanes; None where ale-py does not step them.

        Raises ValueError where there is none and a protocol is asked for, or a setting is not to
        be had.
        """
        is_atari = isinstance(self.env, str) and atari.is_atari(self.env)
        if is_atari and self.resolve() == "native" and self._has_native():
            return atari.settings(self.atari_protocol, self.kwargs)
        if self.atari_protocol in atari.PROTOCOLS:
            raise ValueError(
                f"atari_protocol is {self.atari_protocol}, and ale-py's vector environment does "
                f"not step {self}: that takes an id such as ALE/Pong-v5, --vectorization auto or "
                "native, and no wrapper"
            )
        return None

    def for_scores(self) -> "EnvRecipe":
        """The same lanes with episodes that end where games do: lives are the learner's matter."""
        if self.atari_settings() is None:
            return self
        return replace(self, kwargs={**self.kwargs, "life_loss_info": False})

    def make_one(self, **kwargs) -> gymnasium.Env:
        """Make a single lane, with more arguments for its constructor; raises as make() does."""
        if self.atari_settings() is not None:
            raise ValueError(
                f"{self}: ale-py's vector environment opens no window: leave out the render mode"
            )
        lane = self._lane_maker(None, **kwargs)
        with _named_errors(str(self)):
            return lane()

    def max_episode_steps(self) -> int | None:
        """The time limit that the id was registered with, or that kwargs set, if any."""
        if not isinstance(self.env, str):
            return None
        if self.vectorization == "envpool":
            return _envpool_limit(self)
        if (settings := self.atari_settings()) is not None:
            return atari.steps_of_game(settings)
        limit = self.kwargs.get("max_episode_steps", find_spec(self.env).max_episode_steps)
        return limit if limit is not None and limit > 0 else None  # -1: no limit

    def _has_native(self) -> bool:
        if not isinstance(self.env, str):
            return False
        spec = find_spec(self.env)
        return spec.vector_entry_point is not None and not spec.additional_wrappers

    def _make_native(self, num_envs: int, env_batch_size: int | None) -> VectorEnv:
        if not self._has_native():
            raise ValueError(
                f"{self} registers no vector environment of its own: --vectorization sync or async"
            )
        if self.wrappers:
            raise ValueError(
                "a native vector environment takes no wrapper: --vectorization sync or async"
            )
        settings = self.atari_settings()
        with _named_errors(str(self)):
            if settings is not None:
                return make_atari(find_spec(str(self.env)), settings, num_envs, env_batch_size)
            envs = gymnasium.make_vec(str(self.env), num_envs, "vector_entry_point", **self.kwargs)
            return FastCartPole(envs) if type(envs) is CartPoleVectorEnv else envs

    def _lane_maker(self, outermost: Factory | None, **more) -> Callable[[], gymnasium.Env]:
        """A function that makes one lane; names are looked up now, where they can be reported."""
        wrappers = [(name, find_wrapper(name)) for name in self.wrappers]
        kwargs = {**self.kwargs, **more}
        spec = find_spec(self.env) if isinstance(self.env, str) else None

        def make_lane() -> gymnasium.Env:
            env = gymnasium.make(spec, **kwargs) if spec is not None else self.env(**kwargs)  # pyright: ignore[reportCallIssue]
            for name, wrapper in wrappers:
                try:
                    env = wrapper(env)
                except TypeError as error:
                    raise TypeError(
                        f"wrapper {name}: {error}; where it takes arguments, name a function of "
                        "one environment that gives them: my_package:my_wrapper"
                    ) from error
            return env if outermost is None else outermost(env)

        return make_lane


class _CheckedLane(gymnasium.Wrapper):
    """Looks at each observation in the lane's own process: the shared memory takes any shape."""

    def reset(self, **kwargs):
        with _sendable_errors():
            obs, info = self.env.reset(**kwargs)
            return self._checked(obs), info

    def step(self, action):
        with _sendable_errors():
            obs, reward, terminated, truncated, info = self.env.step(action)
            return self._checked(obs), float(reward), bool(terminated), bool(truncated), info

    def _checked(self, obs):
        if line := misfit(self.observation_space, obs):
            raise ValueError(line)
        return obs


@contextlib.contextmanager
def _sendable_errors() -> Iterator[None]:
    """An exception of anyone's may not survive the way to the parent; its line does."""
    try:
        yield
    except Exception as error:
        raise SentError(one_line(error)) from error


def _lane_process(*arguments) -> None:
    """Gymnasium's own; it ends quietly where the parent was killed, for nobody is left to tell."""
    try:
        _async_worker(*arguments)
    except (EOFError, ConnectionError):
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join(_PARENT_SECONDS)
        if parent is None or parent.is_alive():
            raise


def _make_envpool(recipe: EnvRecipe, num_envs: int, batch_size: int, seed: int) -> VectorEnv:
    """EnvPool's lanes; lane i is seeded with seed + i, once for all."""
    env_id = _envpool_id(recipe)
    import envpool

    make: Any = envpool.make  # its classes are VectorEnvs, made where no checker sees it
    with warnings.catch_warnings(), _named_errors(env_id):
        warnings.simplefilter("ignore")  # bounds of spaces that lose digits
        envs = make(
            env_id, env_type="gymnasium", num_envs=num_envs, batch_size=batch_size,
            seed=seed % (1 << 30), **recipe.kwargs,
        )  # fmt: skip
        assert envs.single_observation_space is not None  # made now, warnings and all, and kept
        return envs


def _envpool_id(recipe: EnvRecipe) -> str:
    """The id, if EnvPool is there, knows it, and nothing is asked that it cannot do."""
    try:
        import envpool
    except ImportError:
        raise ValueError(
            "vectorization envpool needs a package that is missing: pip install 'fastdqn[envpool]'"
        ) from None
    if not isinstance(recipe.env, str) or recipe.wrappers:
        raise ValueError(
            "EnvPool makes environments by their id and wraps nothing around a lane: "
            "--vectorization sync or async"
        )
    known = envpool.list_all_envs()
    if recipe.env not in known:
        near = nearest(recipe.env, known)
        raise ValueError(
            f"EnvPool has no {recipe.env!r}: "
            + (f"did you mean {near}?" if near else "--vectorization sync or async")
        )
    return recipe.env


def _envpool_limit(recipe: EnvRecipe) -> int | None:
    envs: Any = _make_envpool(recipe, 1, 1, 0)
    limit = envs.config.get("max_episode_steps")
    return limit if limit is not None and limit < 1 << 30 else None


@contextlib.contextmanager
def _named_errors(what: str) -> Iterator[None]:
    """Whatever a constructor of anyone's raises becomes a ValueError of one line."""
    try:
        yield
    except HungError:  # whoever interrupted the call tells it
        raise
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        missing = " ".join(str(error).split())
        raise ValueError(f"{what} needs a package that is missing: {missing}") from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what} cannot be made: {one_line(error)}") from None


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started in here ignore signals that may go to all of a group: the parent, who
    hears them too, ends them in order. They end by themselves when it is gone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in GROUP_SIGNALS}
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.kill()  # Gymnasium would terminate them, and wait
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
