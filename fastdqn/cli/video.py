"""Video: `fastdqn video`, a film of greedy episodes with the values of actions beside them."""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium

from fastdqn.builders.auto_options import EVAL_MAX_STEPS
from fastdqn.cli import parser
from fastdqn.cli.load_run import load_trained
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import EnvError, EnvRecipe, NonFiniteError, Screen, limit_of, open_screen
from fastdqn.envs.watchdog import watch, watch_making
from fastdqn.files.output_files import new_folder, out_problems, write_together
from fastdqn.files.run_folder import working_folder
from fastdqn.learning.policy import Policy
from fastdqn.report.mp4 import film_problem, write_film
from fastdqn.report.video_frame import Panel
from fastdqn.seeding import AUDIT, env_seed
from fastdqn.tabular.q_table import TablePolicy
from fastdqn.training.playback import Moment, show

# How long the last picture of an episode stays.
_ENDING_SECONDS = 1.0


@dataclass(frozen=True)
class VideoOptions:
    episodes: int = 3
    """Episodes, one after another."""
    out: Path | None = None
    """File, .mp4; None: video/NAME.mp4 beside the weights, by their name."""
    weights: Literal["best", "last"] = "best"
    """best: by evaluation while training, else the last; or last."""
    seed: int = 0
    """Of the first episode, as in eval: where lanes are Python's or ALE's, the same episodes."""
    max_steps: int | None = None
    """Cap on an episode; None: the environment's own limit, else 27,000."""
    env_id: str | None = None
    """Environment; None: the one in the run's config.json."""
    max_step_seconds: float | None = Config.max_step_seconds
    """Seconds after which making environments or a step has failed; None: never."""


def video_run(run: str, args: list[str]) -> str:
    """Film a run's weights; returns what to print.

    args  the options, as they were typed
    Raises ConfigError where the run, an option, an extra or the environment cannot be used, or the
    file cannot be written; EnvError and NonFiniteError where the environment fails while it is
    played. What was there before is then as it was.
    """
    chosen, lines = parser.parse(args, VideoOptions(), "fastdqn video RUN")
    patience, base = chosen.max_step_seconds, working_folder()  # an environment may change it
    asked = Config(
        eval_episodes=chosen.episodes, eval_max_steps=chosen.max_steps, seed=chosen.seed,
        max_step_seconds=patience,
    )  # fmt: skip
    lines += [line.removeprefix("eval_") for line in asked.problems()]
    lines += out_problems(chosen.out)
    if chosen.out is not None and chosen.out.suffix.lower() != ".mp4":
        lines.append(f"out is {str(chosen.out)!r}: the name of a video ends in .mp4")
    if problem := film_problem():
        lines.append(problem)
    policy, recipe, path = load_trained(run, chosen.weights, chosen.env_id, patience, lines)
    out = chosen.out or path.parent / "video" / f"{path.stem}.mp4"
    if chosen.out is None and out.parent.is_symlink():
        raise ConfigError([f"{out.parent} is a symbolic link: name the file, --out FILE.mp4"])
    # Pygame draws into memory: without a display, too.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        told = _film(policy, recipe, chosen, base / out)
    except (EnvError, NonFiniteError):
        raise
    except (OSError, ValueError, gymnasium.error.Error) as error:
        raise ConfigError([" ".join(str(error).split())]) from None
    return f"{recipe}: {told}\nweights: {path}\nwritten: {out}"


def _film(policy: Policy | TablePolicy, recipe: EnvRecipe, chosen: VideoOptions, out: Path) -> str:
    """Write the film, whole or not at all; returns what there is to see."""
    with watch_making(str(recipe), chosen.max_step_seconds):
        screen = open_screen(recipe)
    with watch(screen.stream.asking, chosen.max_step_seconds), contextlib.closing(screen):
        limit = chosen.max_steps or limit_of(screen.stream.envs, recipe.max_episode_steps())
        moments = show(
            policy.expected, screen, chosen.episodes, limit or EVAL_MAX_STEPS,
            env_seed(chosen.seed, AUDIT),
        )  # fmt: skip
        endings: list[Moment] = []
        pictures = _pictures(moments, screen, chosen.episodes, endings)
        with new_folder(out.parent):
            write_together(
                out.parent, {out.name: lambda place: write_film(place, pictures, screen.fps)}
            )
    told = ", ".join(f"{end.total:.6g} in {end.steps:,} steps" for end in endings)
    return f"greedy episodes returned {told}"


def _pictures(
    moments: Iterator[Moment], screen: Screen, episodes: int, endings: list[Moment]
) -> Iterator:
    """Each moment drawn; the last of an episode stays for a while, and is put into endings."""
    panel = Panel(screen.action_names)
    for moment in moments:
        lines = (
            f"episode {moment.episode + 1} of {episodes}"
            + (moment.ending and f", {moment.ending}"),
            f"step {moment.steps:,}   return {moment.total:.6g}",
        )
        drawn = panel.draw(moment.picture, moment.values, moment.action, lines)
        yield drawn
        if moment.ending:
            endings.append(moment)
            for _ in range(math.ceil(screen.fps * _ENDING_SECONDS) - 1):
                yield drawn
