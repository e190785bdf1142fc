"""Scores: what a return on an Atari game is worth beside a random and a human player's."""

import csv
import functools
import importlib.resources
import re
from typing import NamedTuple


class Reference(NamedTuple):
    """Scores of a game by a random player and by a human one."""

    random: float
    human: float


@functools.cache
def references() -> dict[str, Reference]:
    """Of every game by its ROM's name; the source stands in the first line of the file."""
    text = (importlib.resources.files("fastdqn.envs") / "atari_scores.csv").read_text("utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {row["game"]: Reference(float(row["random"]), float(row["human"])) for row in rows}


def game_of(env_id: str) -> str | None:
    """The ROM's name of an id such as ALE/SpaceInvaders-v5 (space_invaders), EnvPool's
    SpaceInvaders-v5 too, if it is one of the 57 games."""
    match = re.fullmatch(r"(?:ale_py:)?(?:ALE/)?([A-Za-z]+)-v5", env_id)
    if match is None:
        return None
    game = re.sub(r"(?<!^)(?=[A-Z])", "_", match[1]).lower()
    return game if game in references() else None


def human_normalized(env_id: str, score: float) -> float | None:
    """(score - random) / (human - random): 0 plays like chance, 1 like the human; None where env_id
    is no game of the table. Mnih et al. 2015 (Nature 518), extended data table 2."""
    game = game_of(env_id)
    if game is None:
        return None
    random, human = references()[game]
    return (score - random) / (human - random)
