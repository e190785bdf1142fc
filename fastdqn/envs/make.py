"""EnvRecipe: makes vector environments from an id or a function."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from fastdqn.compiled import CompiledVectorEnv, find_definition, has_definition, is_registered
from fastdqn.config import atari_protocols
from fastdqn.envs.atari import make_atari
from fastdqn.envs.errors import MakeError, one_line
from fastdqn.envs.registry import find_spec, find_wrapper, nearest
from fastdqn.envs.sub_env import NOT_ITS_OWN, RemoteSubEnv, SubEnv, close_quietly
from fastdqn.envs.worker_process import WorkerTarget, starting_workers
from fastdqn.envs.worker_vector_env import WorkerVectorEnv
from fastdqn.system.cpu_limits import usable_cores
from fastdqn.system.cwd_imports import safe_children

VECTORIZATIONS = ("auto", "compiled", "native", "sync", "workers", "async", "envpool")
Factory = Callable[..., gymnasium.Env]


@dataclass(frozen=True)
class EnvRecipe:
    """How the sub-environments of a run are made.

    Attributes:
        env: Id of a registered environment, or a function that makes one.
        vectorization: auto, compiled (a definition of fastdqn.compiled), native (the vector class
            of the id), sync, workers, async or envpool.
        workers: Worker processes of `workers`, see worker_count().
        kwargs: Arguments of the environment's constructor.
        wrappers: Names for find_wrapper(), applied to each sub-environment, the innermost first.
        atari_protocol: auto, or a name in atari_protocols.PROTOCOLS, for ale-py's vector
            environment.
        info_keys: Keys of info whose numbers at episode ends are used.
        double_buffering: Whether partial batches of `workers` return in strict turns.
    """

    env: str | Factory
    vectorization: str = "auto"
    kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    atari_protocol: str = "auto"
    info_keys: tuple[str, ...] = ()
    workers: int | None = None
    double_buffering: bool = False

    def __str__(self) -> str:
        return self.env if isinstance(self.env, str) else getattr(self.env, "__name__", "factory")

    def resolve(self) -> str:
        """Returns the vectorization, with auto replaced.

        Without wrappers, auto becomes compiled if that gives the same results, else native if the
        id registers a vector class. Else it becomes sync.

        Raises:
            ValueError: The id does not exist.
        """
        if self.vectorization != "auto":
            return self.vectorization
        if self.wrappers:
            return "sync"
        if self._has_definition() and self.not_compiled() is None:
            return "compiled"
        return "native" if self._has_native() else "sync"

    def not_compiled(self) -> str | None:
        """Returns why auto does not step an environment that has a definition, or None."""
        if self.vectorization != "auto" or not self._has_definition():
            return None
        if self.wrappers:
            return "compiled environments take no wrapper"
        if self.info_keys and not is_registered(find_spec(str(self.env)).id):
            return f"compiled environments return no info, and so no {', '.join(self.info_keys)}"
        return None

    def make(
        self,
        num_envs: int,
        *,
        seed: int = 0,
        env_batch_size: int | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> VectorEnv:
        """Makes a vector environment.

        Args:
            num_envs: Number of sub-environments.
            seed: Seed of EnvPool's sub-environments and of the global generators of worker
                processes. reset() seeds all others.
            env_batch_size: Batch size of EnvPool and ale-py, which take it at construction.
            autoreset_mode: Mode of compiled, sync, workers and async; the others have their own.

        Raises:
            ValueError: The id, a package or the vectorization is not available.
        """
        mode = self.resolve()
        if mode == "envpool":
            return _make_envpool(self, num_envs, env_batch_size or num_envs, seed)
        if mode == "compiled":
            return self._make_compiled(num_envs, autoreset_mode)
        if mode == "native":
            return self._make_native(num_envs, env_batch_size)
        # The stream copies what it keeps, so the environments do not need to.
        options: Any = {"autoreset_mode": autoreset_mode, "copy": False}
        if mode == "async":
            return self._make_async(num_envs, seed, options)
        if mode == "workers":
            return self._make_workers(num_envs, seed, env_batch_size, autoreset_mode)
        make_lane = self._lane_maker()
        with _named_errors(str(self)), contextlib.ExitStack() as made:

            def make() -> gymnasium.Env:
                lane = make_lane()
                made.callback(lane.close)  # closes it if a later one cannot be made
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

    def _make_workers(
        self, num_envs: int, seed: int, env_batch_size: int | None, mode: AutoresetMode
    ) -> VectorEnv:
        make_lane = self._lane_maker(copies=True)
        workers = worker_count(num_envs, self.workers, env_batch_size)
        with _named_errors(str(self)):
            return WorkerVectorEnv(
                [make_lane] * num_envs, workers, seed, mode, self.info_keys, self.double_buffering
            )

    def atari_settings(self) -> dict[str, Any] | None:
        """Returns every setting of ale-py's vector environment, or None if it is not used.

        Raises:
            ValueError: A protocol is set without such an environment, or a setting is not
                supported.
        """
        is_atari = isinstance(self.env, str) and atari_protocols.is_atari(self.env)
        if is_atari and self.resolve() == "native" and self._has_native():
            return atari_protocols.settings(self.atari_protocol, self.kwargs)
        if self.atari_protocol in atari_protocols.PROTOCOLS:
            raise ValueError(
                f"atari_protocol is {self.atari_protocol}, but ale-py's vector environment does "
                f"not step {self}. A protocol needs an id such as ALE/Pong-v5, --vectorization "
                "auto or native, and no wrapper"
            )
        return None

    def for_scores(self) -> "EnvRecipe":
        """Returns the recipe for evaluation, where episodes end with games, not with lives."""
        if self.atari_settings() is None:
            return self
        return replace(self, kwargs={**self.kwargs, "life_loss_info": False})

    def make_one(self, **kwargs) -> gymnasium.Env:
        """Makes a single sub-environment with extra constructor arguments; raises as make()."""
        if self.atari_settings() is not None:
            raise ValueError(
                f"{self}: ale-py's vector environment has no window; omit the render mode"
            )
        lane = self._lane_maker(**kwargs)
        with _named_errors(str(self)):
            return lane()

    def max_episode_steps(self) -> int | None:
        """Returns the time limit of the registered id or of kwargs, or None."""
        if not isinstance(self.env, str):
            return None
        if self.vectorization == "envpool":
            return _envpool_limit(self)
        if (settings := self.atari_settings()) is not None:
            return atari_protocols.steps_of_game(settings)
        limit = self._limit()
        return limit if limit is not None and limit > 0 else None

    def _has_definition(self) -> bool:
        return isinstance(self.env, str) and has_definition(find_spec(self.env).id, self._own())

    def _own(self) -> dict[str, Any]:
        """Returns the arguments of the constructor itself."""
        return {name: value for name, value in self.kwargs.items() if name != "max_episode_steps"}

    def _limit(self) -> Any:
        """Returns the time limit as it is given; None without one, or if it is -1."""
        limit = self.kwargs.get("max_episode_steps", find_spec(str(self.env)).max_episode_steps)
        return None if limit == -1 else limit

    def _make_compiled(self, num_envs: int, mode: AutoresetMode) -> VectorEnv:
        if self.wrappers:
            raise ValueError(
                "a compiled vector environment takes no wrapper: use --vectorization sync or "
                "workers"
            )
        if not isinstance(self.env, str):
            raise ValueError(
                "vectorization compiled needs the id of an environment, not a function: register "
                "it with fastdqn.compiled.register()"
            )
        if self.info_keys:
            raise ValueError(
                f"compiled environments return no info, and so no {', '.join(self.info_keys)}: "
                "omit --info-keys, or use --vectorization sync with an environment in Python"
            )
        with _named_errors(str(self)):
            definition = find_definition(find_spec(self.env).id, fresh(self._own()))
            definition = replace(definition, max_episode_steps=self._limit())
            return CompiledVectorEnv(definition, num_envs, autoreset_mode=mode, copy=False)

    def _has_native(self) -> bool:
        if not isinstance(self.env, str):
            return False
        spec = find_spec(self.env)
        return spec.vector_entry_point is not None and not spec.additional_wrappers

    def _make_native(self, num_envs: int, env_batch_size: int | None) -> VectorEnv:
        if not self._has_native():
            raise ValueError(
                f"{self} registers no vector environment: use --vectorization sync or workers"
            )
        if self.wrappers:
            raise ValueError(
                "a native vector environment takes no wrapper: use --vectorization sync or workers"
            )
        settings = self.atari_settings()
        with _named_errors(str(self)):
            if settings is not None:
                return make_atari(find_spec(str(self.env)), settings, num_envs, env_batch_size)
            return gymnasium.make_vec(
                str(self.env), num_envs, "vector_entry_point", **fresh(self.kwargs)
            )

    def _lane_maker(self, copies: bool = False, **more) -> Callable[[], SubEnv]:
        """Returns a function that makes one sub-environment.

        Names are resolved now, where an error can be reported. copies: the function is a template
        for worker processes, which make copies.
        """
        wrappers = [(name, find_wrapper(name)) for name in self.wrappers]
        spec = find_spec(self.env) if isinstance(self.env, str) else None

        def make_lane() -> SubEnv:
            kwargs = fresh({**self.kwargs, **more})
            env = gymnasium.make(spec, **kwargs) if spec is not None else self.env(**kwargs)  # pyright: ignore[reportCallIssue]
            try:
                return SubEnv(_wrapped(env, wrappers), copies, self.info_keys)
            except BaseException:
                close_quietly(env)
                raise

        return make_lane


def worker_count(num_envs: int, workers: int | None, env_batch_size: int | None) -> int:
    """Returns the number of worker processes, at most one for each environment.

    None: one for each batch of environments that is waited for, if those are not all. Otherwise the
    usable cores without the one of the learner, at least 1.
    """
    if workers is None and env_batch_size is not None and env_batch_size < num_envs:
        return num_envs // env_batch_size
    return min(num_envs, workers or max(1, usable_cores() - 1))


def fresh(value: Any) -> Any:
    """Copies lists, dicts and arrays in constructor arguments, so that no constructor changes them.

    Other objects are passed as they are.
    """
    if isinstance(value, dict):
        return {key: fresh(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(map(fresh, value)) if type(value) in (list, tuple, set) else value
    return value.copy() if isinstance(value, np.ndarray) else value


def _wrapped(env: Any, wrappers: list[tuple[str, Callable]]) -> Any:
    if wrappers and not isinstance(env, gymnasium.Env):
        return env  # SubEnv reports the wrong type
    for name, wrapper in wrappers:
        try:
            env = wrapper(env)
        except TypeError as error:
            raise TypeError(
                f"wrapper {name}: {error}. If it takes arguments, name a function of one "
                "environment that passes them: my_package:my_wrapper"
            ) from error
    return env


def _make_envpool(recipe: EnvRecipe, num_envs: int, batch_size: int, seed: int) -> VectorEnv:
    """Makes EnvPool environments; sub-environment i is seeded once with seed + i."""
    env_id = _envpool_id(recipe)
    import envpool

    make: Any = envpool.make  # its classes are VectorEnvs, but created at runtime
    with warnings.catch_warnings(), _named_errors(env_id):
        warnings.simplefilter("ignore")  # space bounds that lose precision
        envs = make(
            env_id, env_type="gymnasium", num_envs=num_envs, batch_size=batch_size,
            seed=seed % (1 << 30), **fresh(recipe.kwargs),
        )  # fmt: skip
        assert envs.single_observation_space is not None  # builds and caches it within the filter
        return envs


def _envpool_id(recipe: EnvRecipe) -> str:
    """Returns the id if EnvPool is installed, knows it, and supports the recipe."""
    try:
        import envpool
    except ImportError:
        raise ValueError(
            "vectorization envpool needs a package that is missing: pip install 'fastdqn[envpool]'"
        ) from None
    if not isinstance(recipe.env, str) or recipe.wrappers:
        raise ValueError(
            "EnvPool makes environments by id only and takes no wrapper: use --vectorization sync "
            "or workers"
        )
    known = envpool.list_all_envs()
    if recipe.env not in known:
        near = nearest(recipe.env, known)
        raise ValueError(
            f"EnvPool has no environment {recipe.env!r}: "
            + (f"did you mean {near}?" if near else "use --vectorization sync or workers")
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
