"""human_normalized(): an Atari score relative to a random and a human player."""

import csv
import functools
import importlib.resources
import re
from typing import NamedTuple


class Reference(NamedTuple):
    """Scores of a random and of a human player."""

    random: float
    human: float


@functools.cache
def references() -> dict[str, Reference]:
    """Returns the scores of every game by ROM name; the first line of the file names the source."""
    text = (importlib.resources.files("fastdqn.envs") / "atari_scores.csv").read_text("utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {row["game"]: Reference(float(row["random"]), float(row["human"])) for row in rows}


def game_of(env_id: str) -> str | None:
    """Returns the ROM name of an Atari id, or None if it is not one of the 57 games.

    For example, ALE/SpaceInvaders-v5 and EnvPool's SpaceInvaders-v5 are both space_invaders.
    """
    match = re.fullmatch(r"(?:ale_py:)?(?:ALE/)?([A-Za-z]+)-v5", env_id)
    if match is None:
        return None
    game = re.sub(r"(?<!^)(?=[A-Z])", "_", match[1]).lower()
    return game if game in references() else None


def human_normalized(env_id: str, score: float) -> float | None:
    """Returns (score - random) / (human - random), or None if env_id is not one of the games.

    A random player scores 0 and the human player 1. Source: Mnih et al. 2015 (Nature 518), extended
    data table 2.
    """
    game = game_of(env_id)
    if game is None:
        return None
    random, human = references()[game]
    return (score - random) / (human - random)
