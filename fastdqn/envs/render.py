"""open_screen(): a single environment that is stepped and rendered."""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv

from fastdqn.envs.env_stream import EnvStream
from fastdqn.envs.errors import one_line
from fastdqn.envs.make import EnvRecipe
from fastdqn.envs.step import Step
from fastdqn.envs.sub_env import NOT_ITS_OWN

# Atari consoles draw 60 frames a second (NTSC); a step is frameskip frames.
_ATARI_FPS = 60
# The full screen in color; the policy sees a small gray stack.
_WHOLE_SCREEN = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1}
# The names of MinAtar's actions by their letters.
_MINATAR = {"n": "NOOP", "l": "LEFT", "u": "UP", "r": "RIGHT", "d": "DOWN", "f": "FIRE"}


class Screen(Protocol):
    """A single environment that can be stepped and rendered.

    Attributes:
        stream: Stream over the one environment; start() and step() advance it.
        fps: Frames per second at the environment's own pace.
        action_names: One name for each action, counted from 0; its number if it has no name.
    """

    stream: EnvStream
    fps: float
    action_names: list[str]

    def start(self, seed: int) -> Step: ...
    def step(self, action: int) -> Step: ...
    def picture(self) -> np.ndarray:
        """Returns the current frame, uint8[H, W, 3]; raises ValueError if there is none."""
        ...

    def close(self) -> None: ...


def open_screen(recipe: EnvRecipe) -> Screen:
    """Makes one environment that can be rendered.

    Raises:
        ValueError: It cannot be made, or does not support rgb_array.
    """
    settings = recipe.atari_settings()
    return _LaneScreen(recipe) if settings is None else _AtariScreen(recipe, settings)


class _LaneScreen:
    """A Gymnasium environment with render()."""

    def __init__(self, recipe: EnvRecipe):
        self._name = str(recipe)
        checker = {"disable_env_checker": True} if isinstance(recipe.env, str) else {}
        with _quiet():
            self._lane = recipe.make_one(render_mode="rgb_array", **checker)
        modes = self._lane.metadata.get("render_modes", [])
        if "rgb_array" not in modes:
            self._lane.close()
            raise ValueError(
                f"{self._name} cannot be rendered: a video needs the render mode rgb_array, its "
                f"render_modes are {list(modes)}"
            )
        self.stream = EnvStream(SyncVectorEnv([lambda: self._lane]))
        self.fps = _pace(self._lane.metadata.get("render_fps"))
        self.action_names = _names_of(self._lane, self.stream.facts.num_actions)

    def start(self, seed: int) -> Step:
        return self.stream.start(seed)

    def step(self, action: int) -> Step:
        self.stream.send(np.array([action]))
        return self.stream.recv()

    def picture(self) -> np.ndarray:
        with _quiet():  # called through the stream, so that the watchdog covers it
            drawn = self.stream.env_calls("render", self._draw)
        if isinstance(drawn, BaseException):
            hidden = isinstance(drawn, gymnasium.error.DependencyNotInstalled)
            cause = None if hidden else drawn
            raise ValueError(f"{self._name} cannot be rendered: {one_line(drawn)}") from cause
        return _as_bytes(drawn, self._name)

    def _draw(self) -> Any:
        """Returns a frame, or the exception of render(), except the watchdog's."""
        try:
            return self._lane.render()
        except NOT_ITS_OWN:
            raise
        except BaseException as error:  # user code may raise anything
            return error

    def close(self) -> None:
        self.stream.close()


class _AtariScreen:
    """ale-py's vector environment as in training, and a second one for the picture.

    The second one has the same seed and shows the full screen in color, so that the input of the
    policy does not change.
    """

    def __init__(self, recipe: EnvRecipe, settings: dict[str, Any]):
        recipe = recipe.for_scores()
        whole = dataclasses.replace(recipe, kwargs={**recipe.kwargs, **_WHOLE_SCREEN})
        with _quiet():
            self._played: Any = recipe.make(1)
            self._shown: Any = whole.make(1)
        self._picture = np.zeros((210, 160, 3), np.uint8)
        self.stream = EnvStream(self._played)
        self.fps = _ATARI_FPS / settings["frameskip"]
        self.action_names = [action.name for action in self._played.unwrapped.ale.get_action_set()]

    def start(self, seed: int) -> Step:
        obs, _ = self._shown.reset(seed=seed)
        self._picture = obs[0, 0].copy()
        return self.stream.start(seed)

    def step(self, action: int) -> Step:
        self.stream.send(np.array([action]))  # rejects actions that would hang the second one
        obs, *_ = self._shown.step(np.array([action]))
        self._picture = obs[0, 0].copy()
        return self.stream.recv()

    def picture(self) -> np.ndarray:
        return self._picture

    def close(self) -> None:
        self._shown.close()
        self.stream.close()


def _names_of(lane: gymnasium.Env, num_actions: int) -> list[str]:
    """Returns the action names of ALE and MinAtar if they fit, else numbers."""
    names: list[str] = []
    with contextlib.suppress(AttributeError, TypeError, KeyError, IndexError):
        base: Any = lane.unwrapped
        if hasattr(base, "get_action_meanings"):
            names = list(map(str, base.get_action_meanings()))
        else:
            letters = base.game.env.action_map
            names = [_MINATAR[letters[action]] for action in base.action_set]
    return names if len(names) == num_actions else [str(i) for i in range(num_actions)]


def _pace(fps: Any) -> float:
    """Returns render_fps, or 30 if the metadata has no valid number."""
    is_pace = isinstance(fps, int | float | np.number) and 0 < float(fps) <= 1_000
    return float(fps) if is_pace else 30.0


def _as_bytes(drawn: Any, name: str) -> np.ndarray:
    """Converts a frame to uint8[H, W, 3]; accepts grayscale and floats from 0 to 1."""
    picture = np.asarray(drawn)
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, axis=2)
    if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(
            f"{name} cannot be rendered: render() returned {type(drawn).__name__} of shape "
            f"{picture.shape}, expected a picture [H, W, 3]"
        )
    if picture.dtype.kind == "f":
        picture = np.nan_to_num(picture * 255.0)
    return np.clip(picture, 0, 255).astype(np.uint8)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what environments print, and warnings about differing render metadata."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
