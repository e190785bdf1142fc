"""Making vector environments of an id or a factory, with errors that say what to do."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from fastdqn.config import atari_protocols
from fastdqn.envs.atari import make_atari
from fastdqn.envs.cartpole import FastCartPole
from fastdqn.envs.errors import MakeError, one_line
from fastdqn.envs.registry import find_spec, find_wrapper, nearest
from fastdqn.envs.sub_env import NOT_ITS_OWN, RemoteSubEnv, SubEnv, close_quietly
from fastdqn.envs.worker_process import WorkerTarget, starting_workers
from fastdqn.system.cwd_imports import safe_children

VECTORIZATIONS = ("auto", "native", "sync", "async", "envpool")
Factory = Callable[..., gymnasium.Env]


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

        seed    of EnvPool's lanes, and of the global generators of async's processes; other lanes
            are seeded by reset()
        env_batch_size  of EnvPool and ale-py, which take it here
        autoreset_mode  of sync and async; the others have their own
        Raises ValueError, one line, where the id, a dependency or the mode is not there.
        """
        mode = self.resolve()
        if mode == "envpool":
            return _make_envpool(self, num_envs, env_batch_size or num_envs, seed)
        if mode == "native":
            return self._make_native(num_envs, env_batch_size)
        # The stream copies what it keeps, so the environments need not copy it once more.
        options: Any = {"autoreset_mode": autoreset_mode, "copy": False}
        if mode == "async":
            return self._make_async(num_envs, seed, options)
        make_lane = self._lane_maker()
        with _named_errors(str(self)), contextlib.ExitStack() as made:

            def make() -> gymnasium.Env:
                lane = make_lane()
                made.callback(lane.close)  # where a later one cannot be made
                return lane

            envs = SyncVectorEnv([make] * num_envs, **options)
            made.pop_all()
            return envs

    def _make_async(self, num_envs: int, seed: int, options: dict[str, Any]) -> VectorEnv:
        make_lane = self._lane_maker(copies=True)
        with _named_errors(str(self)), safe_children():
            target = WorkerTarget(seed)
            with starting_workers(target, num_envs):
                lanes: Any = [lambda: RemoteSubEnv(make_lane())] * num_envs
                return AsyncVectorEnv(lanes, worker=target, **options)

    def atari_settings(self) -> dict[str, Any] | None:
        """Every setting of Atari's lanes; None where ale-py does not step them.

        Raises ValueError where there is none and a protocol is asked for, or a setting is not to
        be had.
        """
        is_atari = isinstance(self.env, str) and atari_protocols.is_atari(self.env)
        if is_atari and self.resolve() == "native" and self._has_native():
            return atari_protocols.settings(self.atari_protocol, self.kwargs)
        if self.atari_protocol in atari_protocols.PROTOCOLS:
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
        lane = self._lane_maker(**kwargs)
        with _named_errors(str(self)):
            return lane()

    def max_episode_steps(self) -> int | None:
        """The time limit that the id was registered with, or that kwargs set, if any."""
        if not isinstance(self.env, str):
            return None
        if self.vectorization == "envpool":
            return _envpool_limit(self)
        if (settings := self.atari_settings()) is not None:
            return atari_protocols.steps_of_game(settings)
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
            envs = gymnasium.make_vec(
                str(self.env), num_envs, "vector_entry_point", **fresh(self.kwargs)
            )
            return FastCartPole(envs) if type(envs) is CartPoleVectorEnv else envs

    def _lane_maker(self, copies: bool = False, **more) -> Callable[[], SubEnv]:
        """A function that makes one sub-environment; names are looked up now, where they can be
        reported.

        copies  whether the one that is made stands for copies of it in other processes
        """
        wrappers = [(name, find_wrapper(name)) for name in self.wrappers]
        spec = find_spec(self.env) if isinstance(self.env, str) else None

        def make_lane() -> SubEnv:
            kwargs = fresh({**self.kwargs, **more})
            env = gymnasium.make(spec, **kwargs) if spec is not None else self.env(**kwargs)  # pyright: ignore[reportCallIssue]
            try:
                return SubEnv(_wrapped(env, wrappers), copies)
            except BaseException:
                close_quietly(env)
                raise

        return make_lane


def fresh(value: Any) -> Any:
    """Arguments of a constructor with lists and dicts of their own: what one construction does to
    them is not seen by the next, nor by the caller. Other objects are passed as they are."""
    if isinstance(value, dict):
        return {key: fresh(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(map(fresh, value)) if type(value) in (list, tuple, set) else value
    return value.copy() if isinstance(value, np.ndarray) else value


def _wrapped(env: Any, wrappers: list[tuple[str, Callable]]) -> Any:
    if wrappers and not isinstance(env, gymnasium.Env):
        return env  # which SubEnv explains
    for name, wrapper in wrappers:
        try:
            env = wrapper(env)
        except TypeError as error:
            raise TypeError(
                f"wrapper {name}: {error}; where it takes arguments, name a function of "
                "one environment that gives them: my_package:my_wrapper"
            ) from error
    return env


def _make_envpool(recipe: EnvRecipe, num_envs: int, batch_size: int, seed: int) -> VectorEnv:
    """EnvPool's lanes; lane i is seeded with seed + i, once for all."""
    env_id = _envpool_id(recipe)
    import envpool

    make: Any = envpool.make  # its classes are VectorEnvs, made where no checker sees it
    with warnings.catch_warnings(), _named_errors(env_id):
        warnings.simplefilter("ignore")  # bounds of spaces that lose digits
        envs = make(
            env_id, env_type="gymnasium", num_envs=num_envs, batch_size=batch_size,
            seed=seed % (1 << 30), **fresh(recipe.kwargs),
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
    envs.close()
    return limit if limit is not None and limit < 1 << 30 else None


@contextlib.contextmanager
def _named_errors(what: str) -> Iterator[None]:
    """Turns any exception of a constructor into a MakeError of one line."""
    try:
        yield
    except NOT_ITS_OWN:  # the caller explains an interrupted call
        raise
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        missing = " ".join(str(error).split())
        raise MakeError(f"{what} needs a package that is missing: {missing}") from None
    except BaseException as error:  # SystemExit and GeneratorExit among them
        line = one_line(error).removeprefix("ValueError: ")
        raise MakeError(f"{what} cannot be made: {line}") from None
