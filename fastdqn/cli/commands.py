"""Commands that share no module: dry run, eval, bench, profile, envs, and the final summary."""

import contextlib
import importlib.util
import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gymnasium
from rich.console import Console, RenderableType

from fastdqn.api import evaluate_recipe
from fastdqn.builders import memory_estimate, preflight
from fastdqn.cli.load_run import EnvChanges, load_trained, step_limit_of
from fastdqn.config.conflicts import remarks
from fastdqn.config.derived_facts import keeps_frames, replay_ratio
from fastdqn.config.info_keys import info_title
from fastdqn.config.last_weights import COLLAPSED, is_worse
from fastdqn.config.presets import kept_goals
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import NonFiniteError, find_supported_envs
from fastdqn.envs.atari_scores import human_normalized
from fastdqn.files.atomic_write import WriteError, to_json, write_whole
from fastdqn.files.output_files import append_problems, may_write, out_problems
from fastdqn.files.run_folder import working_folder
from fastdqn.ranks.torchrun import program, world_size
from fastdqn.session import Trained
from fastdqn.system import standard_streams
from fastdqn.text import rounded
from fastdqn.training.evaluation import Evaluation

_WIDTH = 140  # columns of tables if the output is not a terminal


def plan(config: Config) -> str:
    """Returns what a dry run prints: resolved options, memory, replay ratio.

    Raises:
        ConfigError: The options are invalid.
    """
    setup = preflight.preview(config)
    resolved, facts = setup.config, setup.facts
    values = json.loads(resolved.to_json())
    width = max(map(len, values))
    copy = memory_estimate.checkpoint_bytes(resolved, facts)
    return "\n".join(
        [
            *(f"{name:{width}}  {values[name]}" for name in values),
            "",
            f"observations {facts.obs_shape} {facts.obs_dtype}, {facts.num_actions} actions",
            f"replay buffer: {memory_estimate.replay_bytes(resolved, facts) / 2**20:,.1f} MiB"
            + (
                f", each frame of a stack of {facts.stack} stored once"
                if keeps_frames(resolved, facts.stack)
                else ""
            )
            + (f", and {copy / 2**20:,.1f} MiB while a checkpoint is written" if copy else ""),
            replay_ratio(resolved),
            *remarks(resolved),
            *kept_goals(config),
        ]
    )


def evaluate_run(
    run: str, mistakes: list[str], *, episodes: int, weights: str, seed: int, max_steps: int | None,
    env_id: str | None, env_kwargs: dict, wrapper: tuple[str, ...] | None,
    info_keys: tuple[str, ...] | None, max_step_seconds: float | None, render: bool, json: bool,
    out: Path | None,
) -> str:  # fmt: skip
    """Runs `fastdqn eval`: evaluates weights of a run. Returns what to print.

    Args:
        run: Run folder or weights file.
        mistakes: Errors found while the options were parsed, reported with those found here.

    Raises:
        ConfigError: The run, an option or the environment cannot be used.
        EnvError, NonFiniteError: The environment fails during an episode.
        WriteError: The file cannot be written.
    """
    asked = Config(
        eval_episodes=episodes, eval_max_steps=max_steps, seed=seed,
        max_step_seconds=max_step_seconds, info_keys=info_keys or (),
    )  # fmt: skip
    lines = [*mistakes, *(line.removeprefix("eval_") for line in asked.problems())]
    lines += out_problems(out)
    base = working_folder()  # an environment may change the working directory
    changes = EnvChanges(env_id, env_kwargs, wrapper, info_keys)
    policy, recipe, path = load_trained(run, weights, changes, max_step_seconds, lines)
    try:
        evaluation = evaluate_recipe(
            policy,
            recipe,
            episodes=episodes,
            max_steps=max_steps or step_limit_of(path, changes),
            seed=seed,
            render_mode="human" if render else None,
            patience=max_step_seconds,
            started=_announce_evaluation,
        )
        result = evaluation.summary()
        human = human_normalized(str(recipe), float(result["mean_return"]))
        result = {**result, "human_normalized": human}
        text = to_json(result, indent=2)
        if out is not None:
            write_whole(base / out, text + "\n")
    except (WriteError, NonFiniteError):
        raise
    except (OSError, ValueError, gymnasium.error.Error) as error:
        raise ConfigError([" ".join(str(error).split())]) from None
    if json:
        return text
    return (
        f"{recipe}: {_return_of(result)} over {result['episodes']} greedy episodes "
        f"(minimum {rounded(result['min_return'])}, "
        f"{result['cut_episodes']} cut at the step limit)\n"
        + ("" if human is None else f"human-normalized {human:.2f}\n")
        + "".join(f"{line}\n" for line in _info_lines(evaluation))
        + f"weights: {path}"
    )


# Steps of an evaluation that is announced, since it may take minutes. Ours, untuned.
_MANY_STEPS = 200_000


def _announce_evaluation(episodes: int, max_steps: int) -> None:
    """Prints what runs now, on standard error, if it may take minutes."""
    if episodes * max_steps < _MANY_STEPS:
        return
    standard_streams.print_error(
        f"evaluating {episodes} episodes of at most {max_steps:,} steps (--episodes, --max-steps)"
    )


def _info_lines(evaluation: Evaluation) -> list[str]:
    """Returns a line for each key of --info-keys."""
    means = evaluation.info_means()
    return [
        f"{info_title(key)} {rounded(means[key].mean)}{means[key].over}" if key in means
        else f"{info_title(key)}: no episode has {key!r} in info at its end"
        for key in evaluation.info
    ]  # fmt: skip


def bench_run(
    part: str, configs: list[Config], mistakes: list[str], *, out: Path | None, format: str,
    against: str | None, seconds: float, repeats: int, command: str,
) -> None:  # fmt: skip
    """Runs `fastdqn bench`: measures, prints results, and appends the rows to out.

    Args:
        part: What to measure: env, act, replay, learner, train or all.
        configs: Options of the run; several in a sweep over numbers of environments.
        mistakes: Errors found while the options were parsed, reported with those found here.
        format: Of the results on standard output: table, csv, markdown or json.
        command: The command line, recorded in the header.

    Raises:
        ConfigError: An option cannot be used.
        EnvError: The environment fails.
    """
    lines, base = (
        [*mistakes, *(append_problems(out) or _other_content(out))],
        working_folder(),
    )  # an environment may change the working directory
    if not (0 < seconds <= 3600 and 1 <= repeats <= 1000):
        lines.append(
            f"seconds is {seconds}, repeats {repeats}: seconds must be in (0, 3600], repeats in "
            "[1, 1000]"
        )
    if against is not None and part not in ("train", "all"):
        lines.append(f"against {against} compares training: use fastdqn bench train ...")
    if against is not None and importlib.util.find_spec("stable_baselines3") is None:
        lines.append("Stable-Baselines3 is not installed: pip install 'fastdqn[sb3]'")
    mistaken = bool(lines)
    found = _actor_problem("bench", configs[0])
    mistaken |= bool(found)
    found += [line for config in configs for line in preflight.check(config, mistaken=mistaken)]
    lines += dict.fromkeys(found)
    if lines:
        raise ConfigError(lines)
    from fastdqn.bench import bench, formats
    from fastdqn.bench.sb3_peer import PeerError

    effort = bench.Effort(seconds, repeats, burn_in=seconds / 2)
    output = _BenchOutput(as_table=format == "table")
    try:
        with contextlib.closing(output):
            results = bench.bench(part, configs, effort, output, command=command, against=against)
    except PeerError as error:
        raise ConfigError([str(error)]) from None
    if format != "table":
        standard_streams.restore()  # environments may have closed or replaced it
    if format == "json":
        print(formats.as_json(results.rows))
    elif format != "table":
        write = {"csv": formats.as_csv, "markdown": formats.as_markdown}[format]
        print(write(results.figures, results.rows))
    if out is not None:  # last, since a full disk should not cost the results
        before = bench.append_rows(base / out, results.rows)
        what = "appended" if before else "written"
        output.warn(f"{what}: {len(results.rows)} lines to {out}")


class _BenchOutput:
    """Shows tables on standard output if they are asked for; progress on standard error.

    On a terminal, progress is one line that changes in place.
    """

    def __init__(self, as_table: bool):
        self._print = _printer()
        self._as_table, self._in_place, self._length = as_table, sys.stderr.isatty(), 0

    def show(self, drawn: RenderableType) -> None:
        """Shows a table or a line. In other formats, lines go to standard error."""
        self.close()
        if self._as_table:
            self._print(drawn)
        elif isinstance(drawn, str):
            standard_streams.print_error(drawn)

    def warn(self, line: str) -> None:
        self.close()
        standard_streams.print_error(line)

    def begin(self, what: str) -> None:
        self.close()
        line = f"measuring {what} ..."
        if self._in_place:
            print(line, end="", file=sys.stderr, flush=True)
            self._length = len(line)
        else:
            standard_streams.print_error(line)

    def close(self) -> None:
        """Removes the line of progress from a terminal."""
        if self._length:
            print("\r" + " " * self._length + "\r", end="", file=sys.stderr, flush=True)
            self._length = 0


def _other_content(out: Path | None) -> list[str]:
    """Returns an error if --out is a file of something else, to which nothing is appended."""
    if out is None or not out.is_file():
        return []
    try:
        with open(out, "rb") as file:
            first = file.readline(1 << 20)
            if not first or (isinstance(json.loads(first), dict) and first.endswith(b"\n")):
                return []
    except (OSError, ValueError):
        pass
    return [f"out is {str(out)!r}: results are appended, and it has no JSON lines: give another"]


def profile_run(
    config: Config, mistakes: list[str], *, out: Path | None, what: str, updates: int, shapes: bool
) -> None:
    """Runs `fastdqn profile`: profiles calls and writes trace.json and profile.json into out.

    Raises:
        ConfigError: An option cannot be used.
        EnvError: The environment fails.
        WriteError: The files cannot be written.
    """
    lines, base = (
        list(mistakes),
        working_folder(),
    )  # an environment may change the working directory
    if out is None:
        lines.append("profile needs --out DIR, a folder for trace.json and profile.json")
    elif problem := _folder_problem(out, ("trace.json", "profile.json")):
        lines.append(problem)
    if not 1 <= updates <= 100_000:
        lines.append(f"updates is {updates}: it must be a number from 1 to 100,000")
    lines += _actor_problem("profile", config)
    lines += preflight.check(config, mistaken=bool(lines))
    if lines or out is None:
        raise ConfigError(lines)
    from fastdqn.bench.profile_calls import profile_calls, profile_tables
    from fastdqn.bench.repeats import Effort
    from fastdqn.files.output_files import new_folder

    show = _printer()
    with contextlib.ExitStack() as removed_after_a_failure:
        try:
            removed_after_a_failure.enter_context(new_folder(base / out))
        except WriteError as error:
            raise ConfigError([str(error)]) from None
        result = profile_calls(what, config, updates, base / out, Effort(), shapes)
    for drawn in profile_tables(result):
        show(drawn)
    show(f"written: {out / 'trace.json'} (open it at https://ui.perfetto.dev), profile.json")


def _actor_problem(command: str, config: Config) -> list[str]:
    """Returns a message if environments would step elsewhere, where nothing is measured."""
    if not config.actors:
        return []
    return [f"actors is {config.actors}, and {command} measures one process: leave --actors out"]


def _printer() -> Callable[[RenderableType], None]:
    """Returns a function that prints tables, without wrapping if the output is not a terminal."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _WIDTH
    return lambda drawn: console.print(drawn, markup=False)


def _folder_problem(path: Path, names: tuple[str, ...]) -> str | None:
    """Returns why files of these names cannot be written into a folder, or None."""
    try:
        existing = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
        usual = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
        taken = [name for name in names if path.is_dir() and not may_write(path / name)]
    except (OSError, ValueError) as error:
        return f"out is {str(path)!r}: {error}"
    if not usual:
        return f"out is {str(path)!r}: {existing} is not a writable folder"
    if taken:
        return f"out is {str(path)!r}: {taken[0]} in it is a link or a folder, not a file"
    return None


def finish(trained: Trained, quiet: bool) -> int:
    """Prints the summary of a run unless quiet. Returns the exit code: 130 if interrupted."""
    if not quiet:
        standard_streams.restore()  # environments may have closed or replaced it
        print(describe(trained))
    return 130 if trained.summary["exit_reason"].endswith("interrupted") else 0


def describe(trained: Trained) -> str:
    """Returns a summary of a finished run and the commands to try next."""
    summary = trained.summary
    lines = [
        f"{summary['exit_reason']} after {summary['total_steps']:,} steps, "
        f"{summary['episodes']:,} episodes, {summary['updates']:,} updates; "
        f"{summary['steps_per_second']:,.0f} steps/s"
    ]
    if solved := summary["solved"]:
        lines.append(
            f"solved: two evaluations on new seeds reached {solved['threshold']:g}, "
            f"{solved['seconds']:.1f} s after the process started"
        )
    lines += _describe_evaluations(summary["eval"], summary.get("eval_last"))
    if advice := summary.get("advice"):
        lines.append(advice)
    stopped = summary["exit_reason"].endswith("interrupted")
    words = ["resume", "eval", "report"] if stopped else ["report", "video", "eval"]
    folder = shlex.quote(str(trained.folder))
    lines.append(f"run folder: {trained.folder}; next:")
    programs = [program(world_size() if word == "resume" else 1) for word in words]
    called = zip(programs, words, strict=True)
    return "\n".join([*lines, *(f"  {started} {word} {folder}" for started, word in called)])


def _describe_evaluations(best: dict | None, last: dict | None) -> list[str]:
    """Returns lines on the final evaluations of the best and of the last weights."""
    if not best:
        return []
    over = f"over {best['episodes']} greedy episodes"
    if not last or last["steps_at_eval"] == best["steps_at_eval"]:
        return [f"final evaluation: {_return_of(best)} {over}"]
    lines = [
        f"final evaluation of the best weights, of step {best['steps_at_eval']:,}: "
        f"{_return_of(best)} {over}",
        f"final evaluation of the last weights, of step {last['steps_at_eval']:,}: "
        f"{_return_of(last)} {over}",
    ]
    if is_worse(last, best):
        lines.append(f"warning: {COLLAPSED}")
    return lines


def _return_of(evaluation: dict) -> str:
    mean, std = evaluation["mean_return"], evaluation["std_return"]
    return f"mean return {rounded(mean)}, standard deviation {rounded(std)},"


def list_envs(pattern: str) -> str:
    """Runs `fastdqn envs`. Returns a line per matching id. Raises ConfigError without one."""
    try:
        entries = list(find_supported_envs(pattern))
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    if not entries:
        raise ConfigError(
            [
                f"no registered environment matches {pattern!r}: try a part of its name, the "
                "prefix ALE/ or MinAtar/, or my_package: to import the module that registers it"
            ]
        )
    problems, remedies = _folded([e.problem.removeprefix(f"{e.env_id} ") for e in entries])
    heads = ("id", "auto", "faster", "observations -> actions")
    rows = [
        (
            e.env_id, e.vectorization or "no", e.faster or "-",
            problem or f"{e.observations} -> {e.actions}",
        )
        for e, problem in zip(entries, problems, strict=True)
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(3)]
    lines = [
        "  ".join([*(f"{cell:{w}}" for cell, w in zip(row, widths, strict=False)), row[3]])
        for row in (heads, *rows)
    ]
    if any("workers" in e.faster for e in entries):
        remedies = [*remedies, _FASTER]
    return "\n".join([*lines, *remedies])


_FASTER = (
    "workers: faster with eight or more environments and a core to spare. To measure it: "
    "fastdqn bench env ID"
)


def _folded(problems: list[str]) -> tuple[list[str], list[str]]:
    """Returns (problems, remedies). A remedy that several problems share becomes a footnote."""
    # Does not split at the colon of a quoted key of a Dict.
    parted = [(*re.split(r"(?<!['\"]): ", problem, maxsplit=1), "")[:2] for problem in problems]
    times = Counter(remedy for _, remedy in parted if remedy)
    numbers = {remedy: i for i, remedy in enumerate((r for r in times if times[r] > 1), 1)}
    short = [
        f"{what} [{numbers[remedy]}]" if remedy in numbers else problem
        for problem, (what, remedy) in zip(problems, parted, strict=True)
    ]
    return short, [f"[{i}] {remedy}" for remedy, i in numbers.items()]
