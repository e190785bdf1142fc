"""EnvDefinition: an environment as a state record and functions of one state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

OBSERVATIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
ACTIONS = OBSERVATIONS


@dataclass(frozen=True, eq=False)
class EnvDefinition:
    """An environment for CompiledVectorEnv, as functions that Numba can compile.

    In the functions below, state is one record of the dtype `state`, whose fields are read and
    written as attributes, and rng is a numpy.random.Generator, the environment's own. If params is
    given, each of them takes it as one more argument, the last, but before_step().

    Attributes:
        state: Fields of the state, such as [("x", float), ("board", np.int8, (10, 5))].
        observation_space: A Box, Discrete, MultiDiscrete or MultiBinary space.
        action_space: Likewise.
        reset: reset(state, rng) sets every field of the state for a new episode.
        step: step(state, action, rng) changes the state; returns the reward, a float, and
            whether the new state is terminal.
        observe: observe(state, out) writes the observation into out, an array of the observation
            space's shape; of one element if that shape is ().
        mask: mask(state, out) sets each element of out, int8[n], to 1 if that action is valid in
            the state, else to 0.
        params: A NamedTuple of numbers and arrays, which no function may write to.
        before_step: before_step(states) is called once with all N states, a structured array.
            It returns a function without arguments that is called before each step and may write
            into them. Plain Python with NumPy.
        render: render(state) returns an RGB picture, uint8[H, W, 3]. Plain Python.
        max_episode_steps: Time limit, after which an episode is truncated.
        render_fps: Frames per second of a film.

    Raises:
        ValueError: A space, the state or the time limit is not supported.
    """

    state: Any
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    reset: Callable[..., None]
    step: Callable[..., tuple[float, bool]]
    observe: Callable[..., None]
    mask: Callable[..., None] | None = None
    params: tuple | None = None
    before_step: Callable[[np.ndarray], Callable[[], None]] | None = None
    render: Callable[[Any], np.ndarray] | None = None
    max_episode_steps: int | None = None
    render_fps: int = 30

    def __post_init__(self):
        object.__setattr__(self, "state", _record(self.state))
        if self.params is not None:
            if not isinstance(self.params, tuple):
                raise ValueError(f"params is a {type(self.params).__name__}, must be a NamedTuple")
            object.__setattr__(self, "params", _read_only(self.params))
        for what, space, supported in (
            ("observation", self.observation_space, OBSERVATIONS),
            ("action", self.action_space, ACTIONS),
        ):
            if not isinstance(space, supported):
                names = ", ".join(each.__name__ for each in supported)
                raise ValueError(f"the {what} space is {space}, must be one of {names}")
        if self.mask is not None and not isinstance(self.action_space, spaces.Discrete):
            raise ValueError(f"mask() needs a Discrete action space, not {self.action_space}")
        require_limit(self.max_episode_steps)


def _record(state: Any) -> np.dtype:
    """Returns the dtype of the state; raises ValueError if it is no record of numbers."""
    try:
        dtype = np.dtype(state)
    except Exception as error:
        raise ValueError(f"the state is no dtype ({error}): {_EXAMPLE}") from None
    kinds = [dtype[name].base.kind for name in dtype.names or ()]
    if not kinds or not set(kinds) <= set("biuf"):
        raise ValueError(f"the state is {dtype}: {_EXAMPLE}")
    for name in dtype.names or ():
        if not name.isidentifier() or hasattr(np.recarray, name) or hasattr(np.record, name):
            raise ValueError(
                f"the state has a field {name!r}, which is a name of NumPy or no name of Python: "
                "choose another"
            )
    return dtype


def _read_only(params: Any) -> Any:
    """Returns params with arrays that cannot be written to, since all environments share them."""
    values = []
    for value in params:
        if isinstance(value, np.ndarray):
            value = value.view()
            value.flags.writeable = False
        values.append(value)
    return params._make(values) if hasattr(params, "_make") else tuple(values)


_EXAMPLE = (
    "it must be a record of numbers and arrays of them, such as "
    "[('x', float), ('board', np.int8, (10, 5))]"
)


def require_limit(limit: Any) -> None:
    """Raises ValueError unless a time limit is None or a whole number of at least 1."""
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, int | np.integer) or limit < 1:
        raise ValueError(f"max_episode_steps is {limit!r}, must be None or a whole number above 0")
