"""Screen: one lane that is played, and the picture of what it shows."""

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

# Atari consoles draw 60 frames a second (NTSC); a step is frameskip of them.
_ATARI_FPS = 60
# The whole screen in colour, once, where a policy sees a small grey stack.
_WHOLE_SCREEN = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1}
# MinAtar's actions, by the letters it has for them.
_MINATAR = {"n": "NOOP", "l": "LEFT", "u": "UP", "r": "RIGHT", "d": "DOWN", "f": "FIRE"}


class Screen(Protocol):
    """What shows an environment while it is played.

    stream   of one lane, which start() and step() move on
    fps           pictures a second at the environment's own pace
    action_names  one for each action, counted from 0; its number where it has none
    """

    stream: EnvStream
    fps: float
    action_names: list[str]

    def start(self, seed: int) -> Step: ...
    def step(self, action: int) -> Step: ...
    def picture(self) -> np.ndarray:
        """What is shown now, uint8 [H, W, 3]. Raises ValueError, one line, where nothing is."""
        ...

    def close(self) -> None: ...


def open_screen(recipe: EnvRecipe) -> Screen:
    """Make one lane that can be looked at.

    Raises ValueError, one line, where it cannot be made or draws no pictures.
    """
    settings = recipe.atari_settings()
    return _LaneScreen(recipe) if settings is None else _AtariScreen(recipe, settings)


class _LaneScreen:
    """A lane of Gymnasium's that draws itself."""

    def __init__(self, recipe: EnvRecipe):
        self._name = str(recipe)
        checker = {"disable_env_checker": True} if isinstance(recipe.env, str) else {}
        with _quiet():
            self._lane = recipe.make_one(render_mode="rgb_array", **checker)
        modes = self._lane.metadata.get("render_modes", [])
        if "rgb_array" not in modes:
            self._lane.close()
            raise ValueError(
                f"{self._name} draws no pictures: its render_modes are {list(modes)}, and a video "
                "needs rgb_array"
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
        with _quiet():  # asked by the stream, whose calls are those that may be watched
            drawn = self.stream.asking("render", self._draw)
        if isinstance(drawn, BaseException):
            hidden = isinstance(drawn, gymnasium.error.DependencyNotInstalled)
            cause = None if hidden else drawn
            raise ValueError(f"{self._name} cannot be drawn: {one_line(drawn)}") from cause
        return _as_bytes(drawn, self._name)

    def _draw(self) -> Any:
        """A picture, or what was raised instead, unless it is the watchdog's."""
        try:
            return self._lane.render()
        except NOT_ITS_OWN:
            raise
        except BaseException as error:  # an environment of anyone's
            return error

    def close(self) -> None:
        self.stream.close()


class _AtariScreen:
    """ale-py's own vector environment, as trained on, and a second one of the same seed that sees
    the same game whole and in colour: what the policy sees is not touched."""

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
        self.stream.send(np.array([action]))  # which refuses what would hang the other one
        obs, *_ = self._shown.step(np.array([action]))
        self._picture = obs[0, 0].copy()
        return self.stream.recv()

    def picture(self) -> np.ndarray:
        return self._picture

    def close(self) -> None:
        self._shown.close()
        self.stream.close()


def _names_of(lane: gymnasium.Env, num_actions: int) -> list[str]:
    """ALE's and MinAtar's names, if there is one for each action, else numbers."""
    names: list[str] = []
    with contextlib.suppress(AttributeError, TypeError, KeyError, IndexError):
        base: Any = lane.unwrapped
        if hasattr(base, "get_action_meanings"):
            names = list(map(str, base.get_action_meanings()))
        else:
            letters = base.game.env.action_map
            names = [_MINATAR[letters[action]] for action in base.action_set]
    return names if len(names) == num_actions else [str(i) for i in range(num_actions)]


def _pace(told: Any) -> float:
    """Pictures a second; 30 where anyone's metadata tell no such number."""
    is_pace = isinstance(told, int | float | np.number) and 0 < float(told) <= 1_000
    return float(told) if is_pace else 30.0


def _as_bytes(drawn: Any, name: str) -> np.ndarray:
    """A picture of anyone's as uint8 [H, W, 3]: grey ones and shares of 1 are taken, too."""
    picture = np.asarray(drawn)
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, axis=2)
    if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(
            f"{name} cannot be drawn: render() gave {type(drawn).__name__} of shape "
            f"{picture.shape}, a picture [H, W, 3] expected"
        )
    if picture.dtype.kind == "f":
        picture = np.nan_to_num(picture * 255.0)
    return np.clip(picture, 0, 255).astype(np.uint8)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Environments greet, and warn of pictures that they declare otherwise than they draw them."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
