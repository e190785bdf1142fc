"""StudyPlan: the runs that `fastdqn train --seeds` asks for, validated before one starts."""

import dataclasses
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fastdqn import api
from fastdqn.builders import preflight
from fastdqn.builders.memory_estimate import host_bytes
from fastdqn.builders.preflight import Setup
from fastdqn.cli import parser
from fastdqn.cli.config_file import with_file, words_of
from fastdqn.cli.options import TrainOptions
from fastdqn.cli.ray_options import ray_problems
from fastdqn.config.schema import Config, ConfigError
from fastdqn.files.run_folder import working_folder
from fastdqn.report.seed_groups import spelled
from fastdqn.study.study_folder import (
    BASE,
    Study,
    Variant,
    default_folder,
    is_study,
    read_study,
    study_problem,
)
from fastdqn.system.available_memory import available_bytes
from fastdqn.system.cpu_limits import usable_cores

# Options of the study, which its runs do not get. A variant cannot have them.
_OF_STUDY = (
    "seeds", "vs", "jobs", "ray", "ray_cpus", "ray_gpus", "quiet", "no_quiet", "dry_run",
    "no_dry_run",
)  # fmt: skip
_FILE = ("config", "config_file")
# Options that the study sets for each run, or that all runs share, and why.
_OF_RUNS = {
    "seed": "every variant is trained with all of --seeds",
    "run_dir": "the study names the folders of its runs",
    "resume": "the same command continues a study",
    "env_id": "returns of different environments cannot be compared",
    "preset": "it only labels a run",
    "config": "a file of options is shared by all variants",
    "config_file": "a file of options is shared by all variants",
}
_MOST_RUNS, _MOST_JOBS = 10_000, 1_024
# Resident memory of a run of CartPole on the CPU, where buffer and network are small.
_PROCESS_BYTES = 400 << 20
_SEEDS = "numbers and ascending ranges, such as 1-5 or 1 3 7-9"


class StudyPlan(NamedTuple):
    """A study as a command asks for it.

    Attributes:
        folder: Its folder, absolute.
        before: The study that is in the folder, or None.
        study: What it is extended to.
        setups: Validated options of the runs of each variant.
        jobs: Runs in parallel. None: as many as the cluster holds.
    """

    folder: Path
    before: Study | None
    study: Study
    setups: Mapping[Variant, Setup]
    jobs: int | None


def plan_study(
    name: str, words: Sequence[str], chosen: TrainOptions, lines: Sequence[str]
) -> StudyPlan:
    """Validates the options of a study and of each of its variants.

    Args:
        name: Preset or environment id.
        words: The arguments after it.
        chosen: The parsed arguments.
        lines: Error messages of the parser.

    Raises:
        ConfigError: All errors, a line each.
        EnvError: The environment cannot be made.
    """
    own = chosen.config.run_dir
    folder = working_folder() / (default_folder(name) if own is None else own)
    given = parser.given(parser.take_repeated(words, TrainOptions)[0])
    seeds, problems = parse_seeds(chosen.seeds, chosen.config)
    lines = [*lines, *_conflicts(chosen, given), *(problems if "seeds" in given else [])]
    base = chosen.config.replace(
        run_dir=None, seed=(seeds or [chosen.config.seed])[0], preset=api.preset(name).preset
    )
    problem = "run_dir is empty: name a folder" if own == "" else study_problem(folder)
    lines += [problem] if problem and "seeds" in given else []
    lines += preflight.check(base, mistaken=bool(lines))
    options, problems = _shared(name, given, base, mistaken=bool(lines))
    lines += problems
    before = read_study(folder) if "seeds" in given and is_study(folder) else None
    lines += _unlike(before, name, base, folder) if before else []
    asked, problems = _variants(chosen.vs, name, options, base, lines)
    lines += problems
    if lines:
        raise ConfigError(list(dict.fromkeys(lines)))
    study = before or Study(name, options, (Variant(BASE, ()),), ())
    configs = _configs(study, base)
    new = {own: config for own, config in asked.items() if config not in configs.values()}
    study = study.extended(list(new), seeds)
    configs |= {each: new[each.options] for each in study.variants if each not in configs}
    count = len(study.variants) * len(study.seeds)
    if count > _MOST_RUNS:
        raise ConfigError([f"the study has {count:,} runs: it can have at most {_MOST_RUNS:,}"])
    setups = {variant: preflight.preview(config) for variant, config in configs.items()}
    jobs = chosen.jobs if chosen.ray else _jobs(chosen.jobs, count, setups.values())
    return StudyPlan(folder, before, study, setups, jobs)


def parse_seeds(words: Iterable[str], config: Config) -> tuple[list[int], list[str]]:
    """Parses numbers and ranges such as 1 3 7-9. Returns (seeds, error messages)."""
    seeds, lines = dict[int, None](), list[str]()
    for word in (part for each in words for part in each.split(",")):
        match = re.fullmatch(r"(\d{1,19})(?:-(\d{1,19}))?", word, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            lines.append(f"seeds is {word!r}: it must be {_SEEDS}")
        elif last - first >= _MOST_RUNS:
            lines.append(
                f"seeds is {word!r}: a study can have at most {_MOST_RUNS:,} runs. Use a shorter "
                "range"
            )
        else:
            seeds |= dict.fromkeys(range(first, last + 1))
    if seeds:
        found = config.replace(seed=max(seeds)).problems()
        lines += [line for line in found if line.startswith("seed is ")]
    elif not lines:
        lines.append(f"--seeds has no value: it must be {_SEEDS}")
    return list(seeds), lines


def run_words(study: Study, variant: Variant) -> tuple[str, ...]:
    """Returns the options of a variant's runs: its own replace those of the study."""
    return _merged(study.options, variant.options)


def _jobs(asked: int | None, count: int, setups: Iterable[Setup]) -> int:
    """Returns the number of runs in parallel. Raises ConfigError if they exceed the memory."""
    jobs = min(asked or usable_cores(), count)
    most = max(host_bytes(each.config, each.facts, each.size) for each in setups)
    needed, room = most + _PROCESS_BYTES, available_bytes()
    if room is None or jobs == 1 or jobs * needed <= room:
        return jobs
    fits = max(1, room // needed)
    if asked is not None:
        raise ConfigError(
            [f"jobs is {asked}: {jobs} runs need {jobs * needed / 2**30:,.1f} GiB and "
             f"{room / 2**30:.1f} GiB are available. Use --jobs {fits}"]
        )  # fmt: skip
    return fits


def _conflicts(chosen: TrainOptions, given: Mapping[str, list[str]]) -> list[str]:
    lines = []
    if "seeds" not in given:
        flags = ["--vs"] * bool(chosen.vs)
        flags += [f"--{name}" for name in ("jobs", "ray") if name in given]
        verb = "needs" if len(flags) == 1 else "need"
        if flags or not any(name in given for name in ("ray_cpus", "ray_gpus")):
            lines.append(f"{' and '.join(flags) or '--vs'} {verb} seeds: add --seeds 1-5")
    if "seed" in given:
        lines.append("--seed and --seeds exclude each other: leave --seed out")
    if "resume" in given:
        lines.append("--resume and --seeds exclude each other: the same command continues a study")
    if chosen.jobs is not None and not 1 <= chosen.jobs <= _MOST_JOBS:
        lines.append(f"jobs is {chosen.jobs}: it must be a number from 1 to {_MOST_JOBS:,}")
    return lines + ray_problems(chosen.ray, chosen.ray_cpus, chosen.ray_gpus, given)


def _shared(
    name: str, given: Mapping[str, list[str]], base: Config, mistaken: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Returns the options that all runs share, in words, and error messages.

    Those of a file stand in its place: it may change before the last run starts.
    """
    without = (*_OF_STUDY, "run_dir", "seed", "resume")
    names_file = any(each in given for each in _FILE)
    if mistaken or not names_file:
        return _words(given, without), []
    default = api.preset(name)
    file = [word for each in _FILE if each in given for word in given[each]]
    of_file = words_of(with_file(name, default, file)[0], default)
    options = _merged(of_file, _words(given, (*without, *_FILE)))
    parsed, lines = _parse(name, options, base)
    lines = lines or [
        f"{option} is {str(value)!r:.60}: the command line cannot express it, as a study needs"
        for option, value in vars(base).items()
        if value != getattr(parsed, option)
    ]
    return options, [f"config: {line}" for line in lines]


def _variants(
    texts: Iterable[str], name: str, options: Sequence[str], base: Config, known: Sequence[str]
) -> tuple[dict[tuple[str, ...], Config], list[str]]:
    """Parses the values of --vs. Returns (options of runs by own options, error messages).

    known: messages about the options that all variants share, which are not repeated.
    """
    found: dict[tuple[str, ...], Config] = {(): base}
    lines = []
    for text in texts:
        what = f'--vs "{text}"'
        own, problems = _own_options(text, name)
        if not problems:
            config, _ = _parse(name, _merged(options, own), base)
            lines_of_it = preflight.check(config, mistaken=True)
            problems = [line for line in lines_of_it if line not in known]
            twin = next((each for each, other in found.items() if other == config), None)
            if not problems and twin is not None:
                other = f'--vs "{shlex.join(twin)}"' if twin else "the first variant"
                problems = [f"it has the same options as {other}. Leave one out"]
            found.setdefault(own, config)
        lines += [f"{what}: {line}" for line in problems]
    return found, lines


def _own_options(text: str, name: str) -> tuple[tuple[str, ...], list[str]]:
    """Parses the value of one --vs. Returns (its options, error messages)."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        return (), [str(error).lower()]
    if not words:
        return (), ["it names no options. Give those that differ, such as --n-steps 3"]
    given = parser.given(words)
    lines = [f"--{_dashed(n)} cannot differ: {why}" for n, why in _OF_RUNS.items() if n in given]
    lines += [f"--{_dashed(n)} is an option of the whole study" for n in _OF_STUDY if n in given]
    if "help" in given or "-h" in words:
        lines.append(f"it cannot show help. Use fastdqn train {name} --help")
    if lines:
        return (), lines
    return _words(given, ()), parser.parse(words, TrainOptions(api.preset(name)), "")[1]


def _parse(name: str, words: Sequence[str], base: Config) -> tuple[Config, list[str]]:
    """Returns (options of a run with the seed of base and no folder, error messages)."""
    default, rest, lines = with_file(name, api.preset(name), words)
    chosen, more = parser.parse(rest, TrainOptions(default), "")
    config = chosen.config.replace(run_dir=None, seed=base.seed, preset=base.preset)
    return config, [*lines, *more]


def _configs(study: Study, base: Config) -> dict[Variant, Config]:
    """Returns the options of each variant. Raises ConfigError for those of study.json."""
    configs, lines = {}, []
    for each in study.variants:
        configs[each], problems = _parse(study.subject, run_words(study, each), base)
        problems = problems or preflight.check(configs[each], mistaken=True)
        lines += [f"variant {each.name!r} of the study: {line}" for line in problems]
    if lines:
        raise ConfigError(lines)
    return configs


def _unlike(before: Study, name: str, base: Config, folder: Path) -> list[str]:
    """Returns a message on how the options of an existing study differ from those given."""
    if before.subject != name:
        return [f"{folder} is a study of {before.subject}, not of {name}: use another --run-dir"]
    theirs, lines = _parse(name, before.options, base)
    if lines:
        return [f"{folder}: {line}" for line in lines]
    ours, other = dataclasses.asdict(base), dataclasses.asdict(theirs)
    changed = [
        f"{option} is {spelled(ours[option])} here and {spelled(other[option])} in the study"
        for option in ours if ours[option] != other[option]
    ]  # fmt: skip
    if not changed:
        return []
    return [
        f"{folder} is a study with other options: {', '.join(changed)}. Give its options, add a "
        "variant with --vs, or use another --run-dir"
    ]


def _merged(shared: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    replaced = {name.removeprefix("no_") for name in parser.given(own)}
    given = parser.given(shared)
    return (*_words(given, [n for n in given if n.removeprefix("no_") in replaced]), *own)


def _words(given: Mapping[str, list[str]], without: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for name, group in given.items() if name not in without for word in group)


def _dashed(name: str) -> str:
    return name.replace("_", "-")
