"""Command line entry point: dispatches commands and maps errors to exit codes."""

import dataclasses
import io
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence

from fastdqn.cli import parser
from fastdqn.cli.config_file import names_file, with_file
from fastdqn.cli.options import (
    BenchOptions,
    EvalOptions,
    ProfileOptions,
    ResumeOptions,
    TrainOptions,
)
from fastdqn.config.conflicts import ALL_PARTS
from fastdqn.config.option import options_of
from fastdqn.config.presets import DIFFERENCES, PRESETS
from fastdqn.config.schema import Config, ConfigError, unknown_name
from fastdqn.kernels.first_compile import kernels_cached
from fastdqn.ranks.torchrun import rank_index, world_size
from fastdqn.system import cwd_imports, signals, standard_streams
from fastdqn.timing import process_age

_USAGE = """usage: fastdqn COMMAND ...

  fastdqn train PRESET|ENV_ID [options]   train an agent; --help lists the options
  fastdqn train PRESET --seeds 1-5        train many seeds; --vs "--n-steps 3" adds a variant
  fastdqn tabular ENV_ID [options]        train a Q-table on countable states
  fastdqn resume RUN [options]            continue a run from its last checkpoint
  fastdqn eval RUN [options]              evaluate the best weights of a run greedily
  fastdqn video RUN [options]             record greedy episodes with their Q-values
  fastdqn export RUN [options]            export the network to ONNX or torch.export
  fastdqn plot RUN... --out FILE.png      plot curves with confidence intervals over seeds
  fastdqn report RUN... [options]         write an HTML report: results, curves, times, commands
  fastdqn sweep PRESET|ENV_ID [options]   search for settings that learn faster
  fastdqn bench PART [PRESET|ENV_ID]      benchmark env, act, replay, learner, train or all
  fastdqn profile [PRESET|ENV_ID] --out DIR   profile an update and compare it to the roofline
  fastdqn presets                         list the presets and their options
  fastdqn envs [PATTERN]                  list environments and how they are vectorized
  fastdqn doctor [RUN]                    check this machine, or a run and its checkpoints
  fastdqn docs [TOPIC]                    read the guide; --search WORD finds a word in it
  fastdqn completion bash|zsh|tcsh        a script that completes all of this
  fastdqn --version
"""

# What `fastdqn bench` measures.
_PARTS = {
    "env": "environment steps with random actions, for every vectorization",
    "act": "policy calls and actions",
    "replay": "adds to and samples from the replay buffer, next to a plain memory copy",
    "learner": "updates for several batch sizes, and the cost of each technique",
    "train": "the whole loop and its phases, by two clocks",
    "all": "all of these; then options that may be faster are tried",
}
_RESUME_HELP = """RUN continues from its last checkpoint, with the options that it has.

Options below may change. The new value holds from the checkpoint on, and for later resumes.
For every other option start a new run: fastdqn train ... --from RUN

Without changes the result is that of an uninterrupted run, on the CPU and where the state of
the environments can be read. With a change it is not: the run prints what changed.

--total-timesteps is the new total, not an increment. Schedules keep the original total.
"""
# Options of `train` that need or make a study.
_OF_A_STUDY = ("seeds", "vs", "jobs", "ray", "ray_cpus", "ray_gpus")
# Commands that compile the kernels of a run.
_COMPILING = ("train", "resume", "bench", "profile", "sweep")
# Modules that warn of mistakes of the environments, which are part of a run's summary.
_STREAM_MODULES = (
    r"fastdqn\.(envs\.(env_stream|probe)|builders\.(build|environments)|training\.evaluation)$"
)
# Maximum length of a message in characters. A path has at most 4,096.
_MOST = 6_000


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit code: 0, 1 for a failed run, 2 for a usage error."""
    args = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="replace"
        )  # paths may contain characters that cannot be encoded
    signals.prepare_program()
    cwd_imports.allow()  # finds my_package:MyEnv-v0 there, after installed modules
    commands = {
        "train": _train, "eval": _eval, "resume": _resume, "bench": _bench, "profile": _profile,
        "presets": _presets, "envs": _envs, "video": _video, "tabular": _tabular,
        "sweep": _sweep, "doctor": _doctor, "plot": _plot, "report": _report,
        "export": _export, "docs": _docs, "completion": lambda args: _completion(args, commands),
    }  # fmt: skip
    without = ("presets", "envs", "doctor", "completion")  # options
    lists = args[:1] in [[name] for name in without]
    if not args or args[lists : lists + 1] in (["-h"], ["--help"]):
        print(_USAGE, end="")
        return 0 if args else 2
    if args[0] == "--version":
        from fastdqn import __version__

        print(f"fastdqn {__version__}")
        return 0
    try:
        if args[0] not in commands:
            raise ConfigError([unknown_name("command", args[0], commands)])
        _require_one_process(args)
        if argv is None:
            standard_streams.show_warnings_plainly()
            if "--quiet" in args or rank_index() > 0:  # summary.json lists them
                warnings.filterwarnings("ignore", module=_STREAM_MODULES)
            _announce_compiling(args)
        return commands[args[0]](args[1:])
    except parser.HelpShown:
        return 0
    except ConfigError as error:
        for line in error.lines:
            standard_streams.print_error(f"error: {_printable(line)}")
        return 2
    except ValueError as error:
        from fastdqn.envs import MakeError

        if not isinstance(error, MakeError):
            raise
        standard_streams.print_error(f"error: {_printable(str(error))}")
        return 2
    except KeyboardInterrupt:
        if argv is None:  # a second Ctrl-C during exit would print a traceback
            signals.ignore()
        return 130


def _require_one_process(args: list[str]) -> None:
    """Raises ConfigError if torchrun has started several processes of a command that is one."""
    several = world_size()
    together = args[0] in ("train", "resume")
    many = [word for word in args if word.startswith(("--seeds", "--vs", "--jobs"))]
    if several == 1 or (together and not many):
        return
    what = f"fastdqn {args[0]} {many[0] if together else ''}".strip()
    line = f"{several} processes were started, and {what} is one: start it without torchrun"
    raise ConfigError([line] if rank_index() == 0 else [])


def _announce_compiling(args: list[str]) -> None:
    """Prints, before slow imports, that a first run compiles. Standard output holds results."""
    silent = {"-h", "--help", "--quiet", "--dry-run"}
    if args[0] not in _COMPILING or len(args) < 2 or silent & set(args) or rank_index() > 0:
        return
    if not kernels_cached():
        print("compiling kernels (once, about 10 s)", file=sys.stderr, flush=True)


def _train(args: list[str]) -> int:
    name, rest = _subject_or_file(args, "train")
    if name is None and not names_file(args):
        parser.parse(rest, TrainOptions(Config()), "fastdqn train PRESET|ENV_ID")
    from fastdqn import api
    from fastdqn.builders import preflight
    from fastdqn.checkpoints.format import CheckpointError
    from fastdqn.cli import commands
    from fastdqn.session import RUN_FAILURES

    default = Config() if name is None else api.preset(name)
    default, words, lines = with_file(name, default, rest)
    chosen, mistakes = parser.parse(words, TrainOptions(default), f"fastdqn train {name}")
    mistakes = lines + mistakes
    named, config = parser.given(words), chosen.config
    # Other parts are a conflict of the options.
    if "from_parts" in named and not config.from_run and set(config.from_parts) == set(ALL_PARTS):
        mistakes.append("--from-parts needs a run to start from: add --from RUN")
    if chosen.config.preset != default.preset:
        mistakes.append(f"--preset only labels a run: use fastdqn train {chosen.config.preset} ...")
    if not named.keys().isdisjoint(_OF_A_STUDY):
        from fastdqn.cli.study import study

        if name is None:
            mistakes.append("--seeds needs a preset or an environment id first, also with --config")
            raise ConfigError(mistakes)
        return _reported(lambda: study(name, rest, chosen, mistakes))
    try:
        if mistakes:
            raise ConfigError([*mistakes, *preflight.check(_new_in(chosen), mistaken=True)])
        if chosen.dry_run:
            plan = commands.plan(_new_in(chosen))
            if rank_index() == 0:
                print(plan)
            return 0
        with signals.answered():
            trained = api.train(
                chosen.config, quiet=chosen.quiet, resume=chosen.resume,
                imports_seconds=process_age(), seed_globals=True,
            )  # fmt: skip
    except CheckpointError as error:
        raise ConfigError([str(error)]) from None
    except RUN_FAILURES as error:
        return _failed(error)
    return commands.finish(trained, chosen.quiet or rank_index() > 0)


def _new_in(chosen: TrainOptions) -> Config:
    """Returns the options of a new run. With --resume auto its folder may already hold a run."""
    return chosen.config.replace(run_dir=None) if chosen.resume == "auto" else chosen.config


def _resume(args: list[str]) -> int:
    run, rest = _run_subject(args, "the folder of a run", "resume")
    if "-h" in rest or "--help" in rest:
        print(_RESUME_HELP)
    chosen, mistakes = parser.parse(rest, ResumeOptions(Config()), "fastdqn resume RUN")
    from fastdqn.checkpoints.format import CheckpointError
    from fastdqn.cli import commands
    from fastdqn.files.run_folder import working_folder
    from fastdqn.resuming import resume
    from fastdqn.session import RUN_FAILURES
    from fastdqn.study.changed_runs import resume_warning

    if mistakes:
        raise ConfigError(mistakes)
    names = [name.removeprefix("no_") for name in parser.given(rest)]
    changes = {name: getattr(chosen.config, name) for name in names if name in options_of(Config)}
    total = changes.pop("total_timesteps", None)
    line = resume_warning(working_folder() / str(run), changes, total)
    if line and rank_index() == 0:
        standard_streams.print_error(line)
    try:
        with signals.answered():
            trained = resume(
                str(run), total_timesteps=total, checkpoint=chosen.checkpoint, **changes,
                quiet=chosen.quiet, imports_seconds=process_age(), seed_globals=True,
            )  # fmt: skip
    except CheckpointError as error:
        raise ConfigError([str(error)]) from None
    except RUN_FAILURES as error:
        return _failed(error)
    return commands.finish(trained, chosen.quiet or rank_index() > 0)


def _failed(error: Exception) -> int:
    """Prints why a run failed, after the traceback of its environment if there is one."""
    if trace := getattr(error, "trace", ""):
        standard_streams.print_error(trace.rstrip())
    which = f"rank {rank_index()}: " if rank_index() else ""
    standard_streams.print_error(f"error: {which}{_printable(str(error))}")
    return 1


def _eval(args: list[str]) -> int:
    run, rest = _run_subject(args, "the folder of a run, or a .safetensors file", "eval")
    if run is None:
        parser.parse(rest, EvalOptions(), "fastdqn eval RUN")
    chosen, mistakes = parser.parse(rest, EvalOptions(), "fastdqn eval RUN")
    from fastdqn.cli import commands

    values = dataclasses.asdict(chosen)
    return _reported(lambda: _show(commands.evaluate_run(str(run), mistakes, **values)))


def _tabular(args: list[str]) -> int:
    name, rest = _subject(args, "an environment id", "tabular")
    from fastdqn.cli.tabular import tabular

    return _reported(lambda: tabular(name, rest))


def _sweep(args: list[str]) -> int:
    name, rest = _subject_or_file(args, "sweep")
    from fastdqn.cli.sweep import sweep

    return _reported(lambda: sweep(name, rest))


def _video(args: list[str]) -> int:
    run, rest = _run_subject(args, "the folder of a run, or a .safetensors file", "video")
    from fastdqn.cli import video

    return _reported(lambda: _show(video.video_run(str(run), rest)))


def _plot(args: list[str]) -> int:
    from fastdqn.cli import plot_and_report

    _show(plot_and_report.plot_runs(args))
    return 0


def _report(args: list[str]) -> int:
    from fastdqn.cli import plot_and_report

    _show(plot_and_report.report_runs(args))
    return 0


def _export(args: list[str]) -> int:
    run, rest = _run_subject(args, "the folder of a run, or a .safetensors file", "export")
    from fastdqn.cli import export

    _show(export.export_run(str(run), rest))
    return 0


def _completion(args: list[str], commands: Iterable[str]) -> int:
    from fastdqn.cli.completion import completion

    print(completion(args, commands, _PARTS))
    return 0


def _docs(args: list[str]) -> int:
    from fastdqn.cli.docs import docs

    return docs(args)


def _bench(args: list[str]) -> int:
    part, rest = _subject(args, f"a part ({', '.join(_PARTS)})", "bench")
    if "-h" in args or "--help" in args:
        print("PART is what to measure:\n")
        print("\n".join(f"  {each:8} {meaning}" for each, meaning in _PARTS.items()))
        print("\n--num-envs takes several numbers, such as 1 8 64, and measures each.\n")
    if part is None:
        parser.parse(rest, BenchOptions(Config()), "fastdqn bench PART PRESET")
    from fastdqn.cli import commands

    name, default, words, lines = _measured(rest)
    usage = f"fastdqn bench {part} {name}"
    words, counts = parser.take_several(words, "--num-envs")
    chosen, mistakes = parser.parse(words, BenchOptions(default), usage)
    mistakes = lines + mistakes
    configs = [chosen.config]
    if counts:
        each = [parser.parse(["--num-envs", count], chosen, usage) for count in counts]
        configs = [one.config for one, _ in each]
        mistakes += [line for _, problems in each for line in problems]
    if part not in _PARTS:
        mistakes.insert(0, f"unknown part {part!r}: use one of {', '.join(_PARTS)}")
    names = ("out", "format", "against", "seconds", "repeats")
    values = {name: getattr(chosen, name) for name in names}
    values["command"] = shlex.join(["fastdqn", "bench", *args])
    return _reported(lambda: commands.bench_run(str(part), configs, mistakes, **values))


def _profile(args: list[str]) -> int:
    from fastdqn.cli import commands

    name, default, words, lines = _measured(args)
    chosen, mistakes = parser.parse(words, ProfileOptions(default), f"fastdqn profile {name}")
    mistakes = lines + mistakes
    values = {name: getattr(chosen, name) for name in ("out", "what", "updates", "shapes")}
    return _reported(lambda: commands.profile_run(chosen.config, mistakes, **values))


def _show(text: str) -> None:
    """Prints the result of a command, on standard output as it was before environments ran."""
    standard_streams.restore()
    print(text)


def _reported(command: Callable[[], int | None]) -> int:
    """Runs a command that uses an environment. A failure is one line and exit code 1."""
    from fastdqn.session import RUN_FAILURES

    try:
        return command() or 0
    except RUN_FAILURES as error:
        return _failed(error)


def _subject(args: list[str], what: str, command: str) -> tuple[str | None, list[str]]:
    """Returns the subject of a command and its options. The subject is None for --help alone."""
    if args and not args[0].startswith("-"):
        return args[0], args[1:]
    if "-h" in args or "--help" in args:
        return None, args
    raise ConfigError([f"{command} needs {what} first: fastdqn {command} NAME [options]"])


def _run_subject(args: list[str], what: str, command: str) -> tuple[str | None, list[str]]:
    """As _subject() for a run. A study, or another folder of runs, is rejected."""
    run, rest = _subject(args, what, command)
    if run is not None and not {"-h", "--help"} & set(rest):
        from fastdqn.study.study_folder import names_no_run

        if other := names_no_run(run):
            raise ConfigError([f"{run} is {other}"])
    return run, rest


def _subject_or_file(args: list[str], command: str) -> tuple[str | None, list[str]]:
    """As _subject() for a preset or environment id, which is None with --config too."""
    if args and args[0].startswith("-") and names_file(args):
        return None, args
    what = f"a preset ({', '.join(PRESETS)}) or an environment id"
    return _subject(args, what, command)


def _measured(args: list[str]) -> tuple[str, Config, list[str], list[str]]:
    """Returns what bench and profile measure: by a name, by --config, or else cartpole.

    Returns (name for the usage, options, other arguments, error messages). No run folder is made.
    """
    from fastdqn import api

    name, rest = (args[0], args[1:]) if args and args[0][:1] != "-" else (None, args)
    if name is None and not names_file(rest):
        name = "cartpole"
    default, words, lines = with_file(name, Config() if name is None else api.preset(name), rest)
    return name or "PRESET", default.replace(run_dir=None), words, lines


def _printable(line: str) -> str:
    """Returns one printable line. The middle of a very long line is left out."""
    from fastdqn.text import printable

    if len(line) > _MOST:
        out = f" ... ({len(line) - _MOST:,} characters omitted) ... "
        line = line[: _MOST // 2] + out + line[-_MOST // 2 :]
    return printable(line)


def _presets(args: list[str]) -> int:
    if args:
        raise ConfigError([f"presets takes no arguments, got {args[0]!r}"])
    default = dataclasses.asdict(Config())
    for name, config in PRESETS.items():
        values = dataclasses.asdict(config)
        changed = [f"{k}={v}" for k, v in values.items() if v != default[k] and k != "preset"]
        print(f"{name}\n  {config.env_id}  " + "  ".join(changed))
        if name in DIFFERENCES:
            print(f"  differs from {DIFFERENCES[name]}")
    return 0


def _doctor(args: list[str]) -> int:
    if len(args) > 1 or (args and args[0].startswith("-")):
        raise ConfigError([f"doctor takes one folder of a run, got {' '.join(args)!r}"])
    from fastdqn.cli.doctor import doctor

    return doctor(args[0] if args else None)


def _envs(args: list[str]) -> int:
    if len(args) > 1 or (args and args[0].startswith("-")):
        raise ConfigError([f"envs takes one pattern, got {' '.join(args)!r}"])
    from fastdqn.cli import commands

    print(commands.list_envs(args[0] if args else ""))
    return 0
