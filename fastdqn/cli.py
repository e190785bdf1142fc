"""The command line: what each word does. Mistakes are one line each and exit with 2."""

import dataclasses
import io
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence

from fastdqn import options, output, signals, working_directory
from fastdqn.config import Config, ConfigError, unknown_name
from fastdqn.presets import DIFFERENCES, PRESETS
from fastdqn.timing import process_age
from fastdqn.words import BenchOptions, EvalOptions, ProfileOptions, ResumeOptions, TrainOptions

_USAGE = """usage: fastdqn COMMAND ...

  fastdqn train PRESET|ENV_ID [options]   train an agent; --help lists the options
  fastdqn tabular ENV_ID [options]        train a Q-table, where its states can be counted
  fastdqn resume RUN [options]            go on with a run from its last checkpoint
  fastdqn eval RUN [options]              evaluate a run's best weights, greedily
  fastdqn video RUN [options]             film greedy episodes, the values of actions beside
  fastdqn export RUN [options]            the network as ONNX, or as a program of torch
  fastdqn plot RUN... --out FILE.png      curves of runs, means and intervals over their seeds
  fastdqn report RUN... [options]         a page of HTML: results, curves, times, how to repeat it
  fastdqn sweep PRESET|ENV_ID [options]   search for settings that learn faster
  fastdqn bench PART [PRESET|ENV_ID]      measure env, act, replay, learner, train or all
  fastdqn profile [PRESET|ENV_ID] --out DIR   what an update costs, against what is possible
  fastdqn presets                         list the presets and what they set
  fastdqn envs [PATTERN]                  list environments, how auto steps them, why not
  fastdqn doctor [RUN]                    what this machine has; what is left of a run, and to do
  fastdqn completion bash|zsh             a script that completes all of this
  fastdqn --version
"""

# Characters of a message, where paths take 4,096 at most. Ours, untuned.
_MOST = 6_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for a failed run, 2 for a mistake in asking."""
    args = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a path need not be printable to be used
    signals.prepare_program()
    working_directory.allow()  # my_package:MyEnv-v0 may be there; installed modules come first
    commands = {
        "train": _train, "eval": _eval, "resume": _resume, "bench": _bench, "profile": _profile,
        "presets": _presets, "envs": _envs, "video": _video, "tabular": _tabular,
        "sweep": _sweep, "doctor": _doctor, "plot": _plot, "report": _report,
        "export": _export, "completion": lambda args: _completion(args, commands),
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
        return commands[args[0]](args[1:])
    except options.HelpShown:
        return 0
    except ConfigError as error:
        for line in error.lines:
            output.tell(f"error: {_printable(line)}")
        return 2
    except ValueError as error:
        from fastdqn.acting import MakeError

        if not isinstance(error, MakeError):
            raise
        output.tell(f"error: {_printable(str(error))}")
        return 2
    except KeyboardInterrupt:
        if argv is None:  # the program is ending: asked again, it would tell a traceback on its way
            signals.ignore()
        return 130


def _train(args: list[str]) -> int:
    name, rest = _subject(args, f"a preset ({', '.join(PRESETS)}) or an environment id", "train")
    if name is None:
        options.parse(rest, TrainOptions(Config()), "fastdqn train PRESET|ENV_ID")
    from fastdqn import api, checks, commands
    from fastdqn.kernels import never_compiled
    from fastdqn.record.layout import CheckpointError
    from fastdqn.session import RUN_FAILURES

    default = api.preset(name or "")
    chosen, mistakes = options.parse(rest, TrainOptions(default), f"fastdqn train {name}")
    if chosen.config.preset != default.preset:
        mistakes.append(f"--preset only labels a run: fastdqn train {chosen.config.preset} ...")
    try:
        if mistakes:
            raise ConfigError([*mistakes, *checks.check(_new_in(chosen), mistaken=True)])
        if chosen.dry_run:
            print(commands.plan(_new_in(chosen)))
            return 0
        if not chosen.quiet and output.is_terminal() and never_compiled():  # somebody waits
            print("compiling kernels: some 10 s more, before the first run alone", flush=True)
        with signals.answered():
            trained = api.train(
                chosen.config, quiet=chosen.quiet, resume=chosen.resume,
                imports_seconds=process_age(), seed_globals=True,
            )  # fmt: skip
    except CheckpointError as error:
        raise ConfigError([str(error)]) from None
    except RUN_FAILURES as error:
        return _failed(error)
    if not chosen.quiet:
        _show(commands.describe(trained))
    return 130 if trained.summary["exit_reason"].endswith("interrupted") else 0


def _new_in(chosen: TrainOptions) -> Config:
    """The options of a new run: where it may go on with another, the folder may hold that."""
    return chosen.config.replace(run_dir=None) if chosen.resume == "auto" else chosen.config


def _resume(args: list[str]) -> int:
    run, rest = _subject(args, "the folder of a run", "resume")
    chosen, mistakes = options.parse(rest, ResumeOptions(), "fastdqn resume RUN")
    from fastdqn import commands
    from fastdqn.record.layout import CheckpointError
    from fastdqn.resuming import resume
    from fastdqn.session import RUN_FAILURES

    if mistakes:
        raise ConfigError(
            [*mistakes, "resume keeps the options of the run: only total_timesteps can change"]
        )
    try:
        with signals.answered():
            trained = resume(
                str(run), total_timesteps=chosen.total_timesteps, checkpoint=chosen.checkpoint,
                quiet=chosen.quiet, imports_seconds=process_age(), seed_globals=True,
            )  # fmt: skip
    except CheckpointError as error:
        raise ConfigError([str(error)]) from None
    except RUN_FAILURES as error:
        return _failed(error)
    if not chosen.quiet:
        _show(commands.describe(trained))
    return 130 if trained.summary["exit_reason"].endswith("interrupted") else 0


def _failed(error: Exception) -> int:
    """Say in one line why a run failed, after its environment's own traceback, if it has one."""
    if trace := getattr(error, "trace", ""):
        output.tell(trace.rstrip())
    output.tell(f"error: {_printable(str(error))}")
    return 1


def _eval(args: list[str]) -> int:
    run, rest = _subject(args, "the folder of a run, or a .safetensors file", "eval")
    if run is None:
        options.parse(rest, EvalOptions(), "fastdqn eval RUN")
    chosen, mistakes = options.parse(rest, EvalOptions(), "fastdqn eval RUN")
    from fastdqn import commands

    values = dataclasses.asdict(chosen)
    return _told(lambda: _show(commands.evaluate_run(str(run), mistakes, **values)))


def _tabular(args: list[str]) -> int:
    name, rest = _subject(args, "an environment id", "tabular")
    from fastdqn.table_command import tabular

    return _told(lambda: tabular(name, rest))


def _sweep(args: list[str]) -> int:
    name, rest = _subject(args, f"a preset ({', '.join(PRESETS)}) or an environment id", "sweep")
    from fastdqn.sweep import sweep

    return _told(lambda: sweep(name, rest))


def _video(args: list[str]) -> int:
    run, rest = _subject(args, "the folder of a run, or a .safetensors file", "video")
    from fastdqn import video

    return _told(lambda: _show(video.video_run(str(run), rest)))


def _plot(args: list[str]) -> int:
    from fastdqn import pages

    _show(pages.plot_runs(args))
    return 0


def _report(args: list[str]) -> int:
    from fastdqn import pages

    _show(pages.report_runs(args))
    return 0


def _export(args: list[str]) -> int:
    run, rest = _subject(args, "the folder of a run, or a .safetensors file", "export")
    from fastdqn import export

    _show(export.export_run(str(run), rest))
    return 0


def _completion(args: list[str], commands: Iterable[str]) -> int:
    from fastdqn.completion import completion

    print(completion(args, commands))
    return 0


def _bench(args: list[str]) -> int:
    parts = ("env", "act", "replay", "learner", "train", "all")
    part, rest = _subject(args, f"a part ({', '.join(parts)})", "bench")
    name, rest = (rest[0], rest[1:]) if rest and rest[0][:1] != "-" else ("cartpole", rest)
    usage = f"fastdqn bench {part or 'PART'} {name}"
    if part is None:
        options.parse(rest, BenchOptions(Config()), usage)
    from fastdqn import api, commands

    chosen, mistakes = options.parse(rest, BenchOptions(api.preset(name)), usage)
    if part not in parts:
        mistakes.insert(0, unknown_name("part", str(part), parts))
    values = {name: getattr(chosen, name) for name in ("out", "against", "seconds", "repeats")}
    values["command"] = shlex.join(["fastdqn", "bench", *args])
    return _told(lambda: commands.bench_run(str(part), chosen.config, mistakes, **values))


def _profile(args: list[str]) -> int:
    name, rest = (args[0], args[1:]) if args and args[0][:1] != "-" else ("cartpole", args)
    from fastdqn import api, commands

    default = ProfileOptions(api.preset(name))
    chosen, mistakes = options.parse(rest, default, f"fastdqn profile {name}")
    values = {name: getattr(chosen, name) for name in ("out", "what", "updates")}
    return _told(lambda: commands.profile_run(chosen.config, mistakes, **values))


def _show(text: str) -> None:
    """Print what a command came to, wherever an environment has left standard output."""
    output.restore()
    print(text)


def _told(command: Callable[[], int | None]) -> int:
    """Run a command that uses an environment; its failures are one line and exit code 1."""
    from fastdqn.session import RUN_FAILURES

    try:
        return command() or 0
    except RUN_FAILURES as error:
        return _failed(error)


def _subject(args: list[str], what: str, command: str) -> tuple[str | None, list[str]]:
    """The word that a command is about, and the options; None where only help is asked for."""
    if args and not args[0].startswith("-"):
        return args[0], args[1:]
    if "-h" in args or "--help" in args:
        return None, args
    raise ConfigError([f"{command} needs {what} first: fastdqn {command} NAME [options]"])


def _printable(line: str) -> str:
    """One line of some length whatever a user's text, or a file of anyone's, holds: of what is too
    long the middle is left out."""
    from fastdqn.record.layout import printable

    if len(line) > _MOST:
        out = f" ... ({len(line) - _MOST:,} characters left out) ... "
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
    from fastdqn.doctor import doctor

    return doctor(args[0] if args else None)


def _envs(args: list[str]) -> int:
    if len(args) > 1 or (args and args[0].startswith("-")):
        raise ConfigError([f"envs takes one pattern, got {' '.join(args)!r}"])
    from fastdqn import commands

    print(commands.list_envs(args[0] if args else ""))
    return 0
