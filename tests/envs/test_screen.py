"""Screen: frames, action names and moments of episodes."""

import gymnasium
import numpy as np
import pytest

from fastdqn.envs import EnvRecipe, EnvStream, open_screen
from fastdqn.training.playback import show
from helpers.walk_env import Walk


def place(picture: np.ndarray) -> int:
    return int(picture[0, :, 0].argmax())


def values_of(obs, mask):
    """Prefers one step, and would love what is not allowed."""
    return np.where(mask, np.array([[9.0, 2.0, 1.0]]), -np.inf)


def moments(episodes=2, max_steps=100, seed=5, **kwargs):
    screen = open_screen(EnvRecipe(lambda **more: Walk(**kwargs, **more)))
    shown = list(show(values_of, screen, episodes, max_steps, seed))
    screen.close()
    return shown


def test_each_moment_shows_the_state_before_its_action():
    shown = moments(1)
    assert [place(m.picture) for m in shown] == list(range(place(shown[0].picture), 8))
    assert [m.action for m in shown] == [1] * (len(shown) - 1) + [None]
    assert [m.total for m in shown] == [m.steps for m in shown] == list(range(len(shown)))
    assert [m.ending for m in shown] == [""] * (len(shown) - 1) + ["terminated"]
    assert shown[0].values[0] == -np.inf


def test_episodes_have_consecutive_seeds_and_are_reproducible():
    first, again = moments(3), moments(3)
    assert [place(m.picture) for m in first] == [place(m.picture) for m in again]
    (alone,) = {place(m.picture) for m in moments(1, seed=6) if m.steps == 0}
    assert [place(m.picture) for m in first if m.steps == 0][1] == alone
    assert [m.episode for m in first if m.ending] == [0, 1, 2]


def test_a_cap_cuts_an_episode():
    shown = moments(2, max_steps=3)
    assert [(m.steps, m.ending) for m in shown if m.ending] == [(3, "cut"), (3, "cut")]


def test_a_time_limit_truncates():
    recipe = EnvRecipe(lambda **more: gymnasium.wrappers.TimeLimit(Walk(**more), 2))
    screen = open_screen(recipe)
    assert [m.ending for m in show(values_of, screen, 1, 9, 0)] == ["", "", "truncated"]


def test_fps_is_the_environments_and_unnamed_actions_are_numbers():
    screen = open_screen(EnvRecipe(Walk))
    assert (screen.fps, screen.action_names) == (12, ["0", "1", "2"])


@pytest.mark.parametrize("told", [0, -3, "fast", None, 1e9, float("nan")])
def test_an_invalid_fps_is_thirty(told, monkeypatch):
    monkeypatch.setitem(Walk.metadata, "render_fps", told)
    assert open_screen(EnvRecipe(Walk)).fps == 30


@pytest.mark.parametrize(
    ("drawn", "shape", "brightest"),
    [
        (np.full((2, 3), 7, np.uint8), (2, 3, 3), 7),
        (np.full((2, 3, 3), 0.5), (2, 3, 3), 127),
        (np.full((2, 3, 3), 300, np.int64), (2, 3, 3), 255),
        (np.full((2, 3, 3), np.nan), (2, 3, 3), 0),
    ],
)
def test_frames_of_other_dtypes_are_converted(drawn, shape, brightest):
    picture = moments(1, drawn=drawn)[0].picture
    assert (picture.shape, picture.dtype, picture.max()) == (shape, np.uint8, brightest)


def missing_package():
    raise gymnasium.error.DependencyNotInstalled("pygame is not installed,\nrun `pip install x`")


@pytest.mark.parametrize(
    ("drawn", "says"),
    [
        (missing_package, "cannot be rendered: .*pygame is not installed, run `pip install x`"),
        (lambda: 1 / 0, "cannot be rendered: ZeroDivisionError: division by zero"),
        (lambda: exec("raise SystemExit(3)"), "cannot be rendered: SystemExit: 3"),
        (
            lambda: "no picture",
            r"returned str of shape \(\), expected a picture \[H, W, 3\]",
        ),
        (lambda: np.zeros((0, 5, 3)), r"shape \(0, 5, 3\)"),
    ],
)
def test_a_failed_render_is_one_line(drawn, says):
    with pytest.raises(ValueError, match=says) as caught:
        moments(1, drawn=drawn)
    assert "\n" not in str(caught.value)


def test_an_environment_without_rgb_array_is_rejected(monkeypatch):
    monkeypatch.setitem(Walk.metadata, "render_modes", ["ansi"])
    with pytest.raises(
        ValueError, match=r"needs the render mode rgb_array, its render_modes are \['ansi'\]"
    ):
        open_screen(EnvRecipe(Walk))


def test_minatar_is_shown_in_its_colours_with_the_names_of_its_actions():
    minatar = pytest.importorskip("minatar.gym")
    pytest.importorskip("seaborn")
    if "MinAtar/Breakout-v1" not in gymnasium.registry:
        minatar.register_envs()
    screen = open_screen(EnvRecipe("MinAtar/Breakout-v1"))
    screen.start(0)
    assert screen.action_names == ["NOOP", "LEFT", "RIGHT"]
    assert screen.picture().shape == (10, 10, 3)
    assert screen.picture().max() > 100


def reduced(picture: np.ndarray) -> np.ndarray:
    """The whole screen in colour as 84x84 grey values, by areas."""
    grey = picture @ np.array([0.299, 0.587, 0.114])

    def shares(n: int) -> np.ndarray:
        edges = np.arange(85) * n / 84
        low, high = np.arange(n), np.arange(n) + 1
        inside = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
        return inside.clip(0) * 84 / n

    return shares(210) @ grey @ shares(160).T


@pytest.mark.slow
def test_atari_shows_the_whole_screen_of_the_very_game_that_the_policy_sees():
    pytest.importorskip("ale_py")
    recipe = EnvRecipe("ALE/Breakout-v5", atari_protocol="dqn2015")
    screen, alone = open_screen(recipe), EnvStream(recipe.for_scores().make(1))
    assert (screen.fps, screen.action_names) == (15, ["NOOP", "FIRE", "RIGHT", "LEFT"])
    assert not getattr(screen.stream.envs.unwrapped, "life_loss_info", 0)  # whole games
    rng = np.random.default_rng(0)
    for seed in (3, 4):
        screen.start(seed)
        alone.start(seed)
        for action in rng.integers(0, 4, 60):
            screen.step(int(action))
            alone.send(np.array([action]))
            alone.recv()
            np.testing.assert_array_equal(screen.stream.obs, alone.obs)
            assert screen.picture().shape == (210, 160, 3)
            difference = np.abs(reduced(screen.picture()) - screen.stream.obs[0, -1])
            assert difference.max() < 12, "another moment has its ball elsewhere"
    screen.close()
    alone.close()
