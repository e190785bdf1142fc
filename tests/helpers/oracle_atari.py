"""A slow reference: one Atari environment, played frame by frame with ALE."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

SCREEN = (210, 160)  # of the games played here: at this size nothing is resized


def play(
    rom: str, seed: int, actions: np.ndarray, settings: dict[str, Any]
) -> Iterator[tuple[Any, ...]]:
    """Returns episode starts ("start", obs) and (action, reward, terminated, truncated, next_obs),
    and ("game", return, length) where a game is over.

    actions [L] int, counted from 0; settings of atari.settings(), of which noop_max must be 0
    """
    import ale_py
    from ale_py import roms

    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", settings["repeat_action_probability"])
    ale.loadROM(str(roms.get_rom_path(rom)))
    full = settings["full_action_space"]
    meaning = ale.getLegalActionSet() if full else ale.getMinimalActionSet()
    skip, limit = settings["frameskip"], settings["max_num_frames_per_episode"]
    lives_end = settings["life_loss_info"]

    def begin() -> np.ndarray:
        nonlocal screens, pair, frames, lives, total, length
        ale.reset_game()
        screens = deque([np.zeros(SCREEN, np.uint8)] * 4, maxlen=4)
        screens.append(ale.getScreenGrayscale())
        pair = [np.zeros(SCREEN, np.uint8), screens[-1]]
        frames, lives, total, length = 0, ale.lives(), 0.0, 0
        return np.stack(screens)

    screens: deque[np.ndarray] = deque(maxlen=4)
    pair: list[np.ndarray] = []  # the last frame but one and the last, of the last whole step
    frames, lives, total, length = 0, 0, 0.0, 0
    yield "start", begin()
    for action in actions:
        reward = 0.0
        for i in range(skip):
            reward += ale.act(meaning[action])
            frames += 1
            if ale.game_over() or frames >= limit:  # ale-py looks no more at the screen then
                break
            if i >= skip - 2:
                pair[i - skip + 2] = ale.getScreenGrayscale()
        pair[1] = np.maximum(*pair)  # in place, so a cut step sees the brighter of the last one
        screens.append(pair[1])
        obs, total, length = np.stack(screens), total + reward, length + 1
        over, lost = ale.game_over(), ale.lives() < lives
        lives = ale.lives()
        terminated = bool(over or (lives_end and lost))
        truncated = bool(frames >= limit and not terminated)
        yield int(action), reward, terminated, truncated, obs
        ends = over or frames >= limit
        if lives_end and terminated:
            yield "start", obs
        if ends:
            yield "game", total, length
            yield "start", begin()
