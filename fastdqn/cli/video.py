"""The video command: records greedy episodes with their Q-values."""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium

from fastdqn.builders.auto_options import EVAL_MAX_STEPS
from fastdqn.cli import parser
from fastdqn.cli.load_run import EnvChanges, load_trained, step_limit_of
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

# How long the last frame of an episode is shown.
_ENDING_SECONDS = 1.0


@dataclass(frozen=True)
class VideoOptions:
    episodes: int = 3
    """Number of episodes, one after another."""
    out: Path | None = None
    """Output file, .mp4. None: video/NAME.mp4 next to the weights NAME."""
    weights: Literal["best", "last"] = "best"
    """best: the best in evaluation, or the last if there was none. last: the last."""
    seed: int = 0
    """Seed of the first episode. Python and ALE environments play the same episodes as in eval."""
    max_steps: int | None = None
    """Maximum steps of an episode. None: the run's --eval-max-steps, else the environment's limit,
    else 27,000."""
    env_id: str | None = None
    """Environment id. None: the one in the run's config.json."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment's constructor, beside or in place of those of the run."""
    wrapper: tuple[str, ...] | None = None
    """Wrappers of the environment, the innermost first. None: those of the run. --no-wrapper: none,
    such as without one that shapes rewards."""
    max_step_seconds: float | None = Config.max_step_seconds
    """Timeout in seconds of a step and of making environments. None: no timeout."""


def video_run(run: str, args: list[str]) -> str:
    """Runs `fastdqn video`. Returns what to print. An error leaves an existing file unchanged.

    Raises:
        ConfigError: The run, an option, an extra, the environment or the file cannot be used.
        EnvError, NonFiniteError: The environment fails during an episode.
    """
    chosen, lines = parser.parse(args, VideoOptions(), "fastdqn video RUN")
    patience, base = (
        chosen.max_step_seconds,
        working_folder(),
    )  # an environment may change the working directory
    asked = Config(
        eval_episodes=chosen.episodes, eval_max_steps=chosen.max_steps, seed=chosen.seed,
        max_step_seconds=patience,
    )  # fmt: skip
    lines += [line.removeprefix("eval_") for line in asked.problems()]
    lines += out_problems(chosen.out)
    if chosen.out is not None and chosen.out.suffix.lower() != ".mp4":
        lines.append(f"out is {str(chosen.out)!r}: it must end in .mp4")
    if problem := film_problem():
        lines.append(problem)
    changes = EnvChanges(chosen.env_id, chosen.env_kwargs, chosen.wrapper)
    policy, recipe, path = load_trained(run, chosen.weights, changes, patience, lines)
    out = chosen.out or path.parent / "video" / f"{path.stem}.mp4"
    if chosen.out is None and out.parent.is_symlink():
        raise ConfigError([f"{out.parent} is a symbolic link: use --out FILE.mp4"])
    # Pygame can draw into memory, without a display.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if chosen.max_steps is None:
        chosen = replace(chosen, max_steps=step_limit_of(path, changes))
    try:
        summary = _film(policy, recipe, chosen, base / out)
    except (EnvError, NonFiniteError):
        raise
    except (OSError, ValueError, gymnasium.error.Error) as error:
        raise ConfigError([" ".join(str(error).split())]) from None
    return f"{recipe}: {summary}\nweights: {path}\nwritten: {out}"


def _film(policy: Policy | TablePolicy, recipe: EnvRecipe, chosen: VideoOptions, out: Path) -> str:
    """Writes the video completely or not at all. Returns a summary of its episodes."""
    with watch_making(str(recipe), chosen.max_step_seconds):
        screen = open_screen(recipe)
    with watch(screen.stream.env_calls, chosen.max_step_seconds), contextlib.closing(screen):
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
    returns = ", ".join(f"{end.total:.6g} in {end.steps:,} steps" for end in endings)
    return f"greedy episodes returned {returns}"


def _pictures(
    moments: Iterator[Moment], screen: Screen, episodes: int, endings: list[Moment]
) -> Iterator:
    """Yields video frames. The last frame of an episode repeats, its moment goes into endings."""
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
