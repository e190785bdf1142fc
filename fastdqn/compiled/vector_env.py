"""CompiledVectorEnv: a Gymnasium vector environment that one compiled kernel steps."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from fastdqn.compiled import kernels
from fastdqn.compiled.compiling import compile_kernel
from fastdqn.compiled.definition import EnvDefinition, require_limit
from fastdqn.compiled.env_rows import EnvRows
from fastdqn.compiled.generator import LiveGenerator, python_generator
from fastdqn.kernels.jit import COMPILES

_MODES = {
    AutoresetMode.NEXT_STEP: kernels.NEXT_STEP,
    AutoresetMode.SAME_STEP: kernels.SAME_STEP,
    AutoresetMode.DISABLED: kernels.DISABLED,
}


class CompiledVectorEnv(VectorEnv):
    """Steps N environments of one definition.

    For equal seeds it returns what SyncVectorEnv returns of CompiledEnv: environment i has a
    generator of its own, seeded with seed + i. Masks are in infos["action_mask"], int8[N, n]. One
    thread may call it at a time.

    Args:
        definition: The environment.
        num_envs: N.
        max_episode_steps: Time limit; None uses the definition's.
        autoreset_mode: What happens after an episode end: Gymnasium's three modes.
        threads: Threads that divide the environments. The results do not depend on it.
        render_mode: rgb_array, or None. render() returns a picture of each environment.
        copy: Whether to return copies. Without, each call overwrites the arrays of the last one.
        compiled: Whether to compile the functions. Without, they run as Python, to find errors.

    Raises:
        ValueError: An argument is out of range, or a function has other arguments.
    """

    def __init__(
        self,
        definition: EnvDefinition,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        threads: int = 1,
        render_mode: str | None = None,
        copy: bool = True,
        compiled: bool = True,
    ):
        limit = definition.max_episode_steps if max_episode_steps is None else max_episode_steps
        require_limit(limit)
        kernels.require_arguments(definition)
        for name, count in (("num_envs", num_envs), ("threads", threads)):
            if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
                raise ValueError(f"{name} is {count!r}, must be a whole number of at least 1")
        modes = ["rgb_array"] if definition.render is not None else []
        if render_mode not in (None, *modes):
            raise ValueError(f"render_mode is {render_mode!r}, must be one of {[None, *modes]}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {
            "autoreset_mode": self.autoreset_mode, "render_modes": modes,
            "render_fps": definition.render_fps,
        }  # fmt: skip
        num_envs, threads = int(num_envs), int(threads)
        self.definition, self.num_envs, self.render_mode = definition, num_envs, render_mode
        self.single_observation_space = definition.observation_space
        self.single_action_space = definition.action_space
        self.observation_space = batch_space(definition.observation_space, num_envs)
        self.action_space = batch_space(definition.action_space, num_envs)
        self._made = {
            "max_episode_steps": limit, "autoreset_mode": self.autoreset_mode, "threads": threads,
            "render_mode": render_mode, "copy": copy, "compiled": compiled,
        }  # fmt: skip
        self._copy, self._mode = copy, _MODES[self.autoreset_mode]
        self._every = np.ones(num_envs, np.bool_)
        self._rows = rows = EnvRows(definition, num_envs, limit)
        before = definition.before_step
        self._before = before(rows.states) if before is not None else None
        if before is not None and not callable(self._before):
            raise ValueError("before_step() returns no function: it is called once, see its docs")
        self._connect(min(threads, num_envs), compiled and COMPILES)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins new episodes.

        Args:
            seed: Environment i is seeded with seed + i, or with seed[i]. None keeps the generators.
            options: {"reset_mask": bool[N]} resets these environments only.

        Raises:
            ValueError: The options or the number of seeds do not fit.
        """
        rows, chosen = self._rows, self._chosen(options)
        if not rows.started and not chosen.all():
            raise ValueError("the first reset() must reset all environments")
        rows.seed(seed, chosen, self._live[0])
        self._run(kernels.RESET, chosen)
        if not rows.started:
            self._require_written()
        rows.started = True
        rows.ended[chosen] = False
        return self._given(rows.obs), self._infos(chosen)

    def step(
        self, actions: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps each environment; see autoreset_mode for those whose episode has ended.

        Raises:
            ValueError: An action is not in the action space, or a reset() is due.
            RuntimeError: A function of the definition raised an error.
        """
        rows, mode = self._rows, self._mode
        if self.closed:
            raise ValueError("step() was called after close()")
        if not rows.started:
            raise ValueError("step() was called before reset()")
        if mode == kernels.DISABLED and rows.ended.any():
            raise ValueError(
                f"env {rows.ended.argmax()}: step() was called after the episode end, before "
                "reset()"
            )
        self._take(actions)
        if self._before is not None:
            self._before()
        if (stray := self._run(mode, rows.ended)) >= 0:
            raise ValueError(
                f"env {stray}: action {rows.action[stray]} is not in {self.single_action_space}"
            )
        infos = self._infos(self._every)
        if mode == kernels.SAME_STEP and rows.ended.any():
            self._add_final(infos)
        return (
            self._given(rows.obs), self._given(rows.reward), self._given(rows.terminated),
            self._given(rows.truncated), infos,
        )  # fmt: skip

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Returns a picture of each environment, or None without a render_mode."""
        draw = self.definition.render
        if self.render_mode is None or draw is None:
            return None
        more = () if self.definition.params is None else (self.definition.params,)
        return tuple(draw(self._rows.records[i], *more) for i in range(self.num_envs))

    @property
    def states(self) -> np.recarray:
        """Returns the states of all environments [N], the memory itself."""
        return self._rows.records

    @property
    def np_random(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns copies of the environments' generators, a tuple as SyncVectorEnv's."""
        return tuple(python_generator(words, self._live[0]) for words in self._rows.generators)

    @property
    def np_random_seed(self) -> Any:
        """Returns a tuple of the seeds, -1 where unknown."""
        return tuple(self._rows.seeds)

    def set_generator(self, i: int, rng: np.random.Generator) -> None:
        """Gives environment i the state of a generator of kind PCG64."""
        self._live[0].rng.bit_generator.state = rng.bit_generator.state
        self._rows.set_generator(i, self._live[0].read())

    def get_state(self) -> dict[str, Any]:
        """Returns everything that decides what follows, as copies; for an exact resume.

        Raises:
            ValueError: reset() was not called.
        """
        if not self._rows.started:
            raise ValueError("the environments have no state before reset()")
        return {"autoreset_mode": self.autoreset_mode.value, "rows": self._rows.read()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Loads a get_state() of the same definition, N and mode.

        Raises:
            ValueError: It does not fit. Nothing was changed.
        """
        if not isinstance(state, dict) or state.keys() != {"autoreset_mode", "rows"}:
            raise ValueError("the state must have the parts autoreset_mode and rows")
        if state["autoreset_mode"] != (mode := self.autoreset_mode.value):
            raise ValueError(f"the state is of mode {state['autoreset_mode']!r}, not {mode!r}")
        kept = self._rows.read() if self._rows.started else None
        self._rows.write(state["rows"])
        try:
            self._require_valid()
        except ValueError:
            if kept is not None:
                self._rows.write(kept)
            self._rows.started = kept is not None
            raise
        self._run(kernels.RESET, np.zeros(self.num_envs, np.bool_))  # observes, and resets none

    def __reduce__(self):
        """Copies are made anew with the same state, since several arrays share memory."""
        state = self.get_state() if self._rows.started else None
        return _made_again, (self.definition, self.num_envs, self._made, state, self.spec)

    def close_extras(self, **kwargs: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def _connect(self, threads: int, compiled: bool) -> None:
        """Compiles the kernel and prepares its arguments for each thread."""
        n = self.num_envs
        self._live = [LiveGenerator() for _ in range(threads)]
        self._current = np.zeros((threads, 1), np.int64)
        self._ranges = [(n * i // threads, n * (i + 1) // threads) for i in range(threads)]
        self._arguments = [
            self._rows.arguments(self._live[i], self._current[i], self.definition.params, compiled)
            for i in range(threads)
        ]
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self._process = os.getpid()
        kernel = kernels.build_kernel(self.definition, compiled)
        arguments = (*self._ranges[0], self._mode, self._rows.ended, *self._arguments[0])
        self._advance: Callable[..., int] = (
            compile_kernel(kernel, arguments) if compiled else kernel.advance
        )

    def _run(self, mode: int, ended: np.ndarray) -> int:
        """Runs the kernel over all rows; an error of a function names the environment."""
        thread, waiting = 0, []
        try:
            if self._pool is not None:
                self._require_threads()
                waiting = [
                    self._pool.submit(self._advance, *rows, mode, ended, *arguments)
                    for rows, arguments in zip(self._ranges[1:], self._arguments[1:], strict=True)
                ]
            (first, last), arguments = self._ranges[0], self._arguments[0]
            stray = self._advance(first, last, mode, ended, *arguments)
            while waiting:
                thread += 1
                waiting.pop(0).result()
            return stray
        except Exception as error:
            wait(waiting)
            line = " ".join(str(error).split())
            raise RuntimeError(
                f"env {self._current[thread, 0]}: {type(error).__name__}: {line}"
            ) from error

    def _require_valid(self) -> None:
        """Raises ValueError for a loaded state that leads out of arrays, by a step in Python.

        Compiled code does not check indices.
        """
        more = () if self.definition.params is None else (self.definition.params,)
        step, observe = (
            getattr(each, "py_func", each)
            for each in (self.definition.step, self.definition.observe)
        )
        space, action = self.single_observation_space, self.single_action_space
        rng = np.random.default_rng(0)
        first = action.start if isinstance(action, spaces.Discrete) else action.sample()
        records, out = self._rows.records.copy(), np.zeros(space.shape or (1,), space.dtype)
        for i in range(self.num_envs):
            try:
                observe(records[i], out, *more)
                obs = out if space.shape else out[0]
                if not isinstance(space, spaces.Box) and not space.contains(obs):
                    raise IndexError(f"observation {obs} is not in {space}")
                with np.errstate(all="ignore"):
                    step(records[i], first, rng, *more)
            except IndexError as error:
                raise ValueError(f"env {i}: its state is not valid: {error}") from error
            except Exception:  # of other kinds, as in a step
                continue

    def _require_threads(self) -> None:
        """Makes the threads anew in a process that was forked, which has none of them."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._pool = ThreadPoolExecutor(len(self._live) - 1)

    def _require_written(self) -> None:
        """Raises ValueError if observe() or mask() does not write each element of out."""
        rows, nobody, seen = self._rows, np.zeros(self.num_envs, np.bool_), []
        for filler in (0, 1):
            rows.obs[...] = rows.mask[...] = filler
            self._run(kernels.RESET, nobody)  # observes, and resets none
            seen.append([rows.obs.copy(), rows.mask.copy()])
        for name, first, second in zip(("observe", "mask"), *seen, strict=True):
            if first.tobytes() != second.tobytes():
                raise ValueError(
                    f"{name}() leaves elements of out as they were: it must write each, as "
                    "out[:] = ..., in every call"
                )

    def _take(self, actions: Any) -> None:
        """Copies actions into the kernel's array, which checks their range."""
        given, own = np.asarray(actions), self._rows.action
        if given.shape != own.shape:
            raise ValueError(
                f"actions have shape {given.shape}, must have {own.shape}: one for each environment"
            )
        if given.dtype.kind not in "iu" and own.dtype.kind in "iu":
            raise ValueError(f"actions are {given.dtype}, must be integers")
        if given.dtype.kind not in "iuf":
            raise ValueError(f"actions are {given.dtype}, must be {own.dtype}")
        np.copyto(own, given, casting="unsafe")
        is_discrete = isinstance(self.single_action_space, spaces.Discrete)  # the kernel checks
        if (own.dtype.kind in "iu" and given.dtype != own.dtype and (own != given).any()) or not (
            is_discrete or self.action_space.contains(own)
        ):
            raise ValueError(f"an action is not in {self.single_action_space}: {given.tolist()}")

    def _infos(self, of: np.ndarray) -> dict[str, Any]:
        """Returns the masks of some environments, bool[N], with zeros for the others."""
        if self.definition.mask is None:
            return {}
        mask = self._given(self._rows.mask) if of is self._every else self._rows.mask * of[:, None]
        return {"action_mask": mask, "_action_mask": of.copy()}

    def _add_final(self, infos: dict[str, Any]) -> None:
        """Adds the last observations and masks of ended episodes, in the form of SyncVectorEnv."""
        rows, ended = self._rows, self._rows.ended.copy()
        infos["final_obs"] = last = np.full(self.num_envs, None, object)
        for i in np.flatnonzero(ended):
            last[i] = rows.last_obs[i].copy()
        infos["_final_obs"] = infos["_final_info"] = ended
        infos["final_info"] = {}
        if self.definition.mask is not None:
            masks = np.where(ended[:, None], rows.last_mask, np.int8(0))
            infos["final_info"] = {"action_mask": masks, "_action_mask": ended.copy()}

    def _chosen(self, options: dict[str, Any] | None) -> np.ndarray:
        """Returns which environments a reset is for, bool[N]; raises ValueError."""
        if not isinstance(options, dict | None):
            raise ValueError(f"options are {options!r}, must be a dict or None")
        options = dict(options or {})
        chosen = options.pop("reset_mask", None)
        if options:
            raise ValueError(
                f"reset() has no options but reset_mask: {', '.join(map(str, options))}"
            )
        if chosen is None:
            return self._every
        given = np.asarray(chosen)
        if given.shape != (self.num_envs,) or given.dtype != np.bool_:
            raise ValueError(
                f"reset_mask is {given.dtype} of shape {given.shape}, must be bool of shape "
                f"({self.num_envs},)"
            )
        if not given.any():
            raise ValueError("reset_mask chooses no environment")
        return given.copy()

    def _given(self, array: np.ndarray) -> np.ndarray:
        return array.copy() if self._copy else array


def _made_again(
    definition: EnvDefinition,
    num_envs: int,
    made: dict[str, Any],
    state: dict[str, Any] | None,
    spec: Any,
) -> CompiledVectorEnv:
    envs = CompiledVectorEnv(definition, num_envs, **made)
    envs.spec = spec
    if state is not None:
        envs.set_state(state)
    return envs
