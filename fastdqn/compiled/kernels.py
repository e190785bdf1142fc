"""build_kernel(): the one function that steps environments of a definition."""

import dis
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numba

from fastdqn.compiled.definition import EnvDefinition
from fastdqn.compiled.generator import (
    copy_words,
    copy_words_back,
    generator_at,
    python_generator_at,
)
from fastdqn.compiled.kernel_cache import add_cache

# What a call does with each environment: the autoreset modes, or only the resets that are asked.
RESET, NEXT_STEP, SAME_STEP, DISABLED = range(4)
_kernels: dict[tuple, "Kernel"] = {}


class Kernel(NamedTuple):
    """A kernel and the functions inside it.

    Attributes:
        advance: See _advance_with().
        parts: reset, step, observe and mask, of those the ones that the definition has.
        has_params: Whether they take params as their last argument.
    """

    advance: Any
    parts: dict[str, Any]
    has_params: bool


def build_kernel(definition: EnvDefinition, compiled: bool = True) -> Kernel:
    """Returns the kernel for the functions of a definition.

    compiled: Whether to compile it. Without, the same functions run as Python, with NumPy's errors
    for indices out of range, and with breakpoints.
    """
    functions = (
        definition.reset, definition.step, definition.observe, definition.mask,
        definition.params is not None, compiled,
    )  # fmt: skip
    if functions not in _kernels:
        _kernels[functions] = _build(definition, compiled)
    return _kernels[functions]


def _build(definition: EnvDefinition, compiled: bool) -> Kernel:
    has_params = definition.params is not None
    parts = {
        name: _jit(function) if compiled else getattr(function, "py_func", function)
        for name in ("reset", "step", "observe", "mask")
        if (function := getattr(definition, name)) is not None
    }
    taking = {name: _with_params(name, each, has_params, compiled) for name, each in parts.items()}
    reset, step, observe = (taking[name] for name in ("reset", "step", "observe"))
    mask = taking.get("mask") or (_jit(_no_mask) if compiled else _no_mask)
    rng_at = generator_at if compiled else python_generator_at
    draws = _uses_argument(definition.step, 2)
    advance = _advance_with(reset, step, observe, mask, rng_at, draws)
    kernel: Any = add_cache(_jit(advance), definition) if compiled else advance
    return Kernel(kernel, parts, has_params)


def _advance_with(reset, step, observe, mask, rng_at: Any, draws: bool) -> Callable[..., int]:
    """Returns the function to compile.

    draws: Whether step() may draw random numbers. Else a step leaves the generators alone.
    """

    def advance(first, last, mode, ended, action, state, random, episode, out, params):
        """Steps or resets environments first to last - 1.

        Args:
            first, last: The rows to work on.
            mode: RESET resets those of ended and steps none; the others are autoreset modes.
            ended: bool[N], which environments have ended. Updated, but for RESET.
            action: Actions of the space's dtype, [N, *shape].
            state: The N state records.
            random: States of the generators, uint64[N, 5], and words, spare and addresses of a
                LiveGenerator.
            episode: Steps of each episode, int64[N]; the time limit and the lowest and highest
                valid action, int64[3]; and where the environment that is worked on is noted,
                int64[1].
            out: obs, reward, terminated, truncated, mask, and the last obs and mask of SAME_STEP.
            params: The definition's.

        Returns the first row of all N with an action out of range, and nothing was done, or -1.
        """
        generators, words, spare, address = random
        length, limits, current = episode
        limit, low, high = limits[0], limits[1], limits[2]
        obs, reward, terminated, truncated, valid, last_obs, last_valid = out
        if mode != RESET and high >= low:  # a Discrete space
            for i in range(len(action)):
                if action[i] < low or action[i] > high:
                    return i
        rng = rng_at(address)
        for i in range(first, last):
            current[0] = i
            each = state[i]
            resets = mode == RESET or (mode == NEXT_STEP and ended[i])
            if resets or draws or mode == SAME_STEP:
                copy_words(generators[i], words, spare)
            if resets:
                if ended[i]:
                    reset(each, rng, params)
                    length[i] = 0
                reward[i], terminated[i], truncated[i] = 0.0, False, False
                if mode == NEXT_STEP:
                    ended[i] = False
            else:
                reward[i], terminated[i] = step(each, action[i], rng, params)
                length[i] += 1
                truncated[i] = length[i] >= limit
                ended[i] = terminated[i] or truncated[i]
                if mode == SAME_STEP and ended[i]:
                    observe(each, last_obs[i], params)
                    mask(each, last_valid[i], params)
                    reset(each, rng, params)
                    length[i] = 0
            observe(each, obs[i], params)
            mask(each, valid[i], params)
            if resets or draws or mode == SAME_STEP:
                copy_words_back(generators[i], words, spare)
        return -1

    return advance


def _uses_argument(function: Any, position: int) -> bool:
    """Returns whether a function reads an argument, by its position."""
    code = getattr(function, "py_func", function).__code__
    if code.co_argcount <= position:  # *args
        return True
    name = code.co_varnames[position]
    # Since Python 3.13 an instruction may store one variable and load another.
    return name in code.co_cellvars or any(
        name in (each.argval if isinstance(each.argval, tuple) else (each.argval,))
        for each in dis.get_instructions(code)
        if "LOAD" in each.opname
    )


def _jit(function: Callable[..., Any]) -> Any:
    """Compiles a function; one that is compiled already stays as it is."""
    if hasattr(function, "py_func"):
        return function
    return numba.njit(nogil=True, error_model="numpy")(function)


def _with_params(name: str, inner: Any, has_params: bool, compiled: bool) -> Any:
    """Returns a function that takes params as its last argument, as the given one may not."""
    if has_params:
        return inner

    def of_two(state, given, params):
        return inner(state, given)

    def of_three(state, action, rng, params):
        return inner(state, action, rng)

    adapted = of_three if name == "step" else of_two
    return _jit(adapted) if compiled else adapted


def _no_mask(state, out, params):
    pass


def require_arguments(definition: EnvDefinition) -> None:
    """Raises ValueError if a function does not take the arguments that it gets."""
    more = 0 if definition.params is None else 1
    given = {"reset": "state, rng", "step": "state, action, rng", "observe": "state, out"}
    if definition.mask is not None:
        given["mask"] = "state, out"
    if definition.render is not None:
        given["render"] = "state"
    for name, arguments in given.items():
        function = getattr(definition, name)
        if not isinstance(getattr(function, "py_func", function), types.FunctionType):
            raise ValueError(
                f"{name} is a {type(function).__name__}, must be a function: "
                f"def {name}({arguments})"
            )
        expected = arguments.count(",") + 1 + more
        try:
            inspect.signature(getattr(function, "py_func", function)).bind(*range(expected))
        except TypeError as error:
            takes = arguments + (", params" if more else "")
            raise ValueError(f"{name}() must take the arguments ({takes}): {error}") from None
