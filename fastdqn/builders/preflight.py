"""Preflight checks: finds what would stop a run, before anything large is allocated."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from gymnasium.vector import VectorEnv

from fastdqn.builders.auto_options import resolve
from fastdqn.builders.memory_estimate import device_problems, memory_problems
from fastdqn.builders.network_size import NetworkSize
from fastdqn.builders.parts import NO_PARTS, PART_OPTIONS, UserParts, part_problems
from fastdqn.builders.rank_share import share_of
from fastdqn.builders.torso_kinds import problem as torso_problem
from fastdqn.builders.torso_kinds import settle
from fastdqn.config.conflicts import is_compiled, is_graph, wants_cuda
from fastdqn.config.derived_facts import keeps_frames
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config, ConfigError, ResolvedConfig
from fastdqn.datasets.minari_dataset import PREFIX as MINARI_PREFIX
from fastdqn.envs import (
    EnvError,
    EnvFacts,
    EnvRecipe,
    Factory,
    UnknownEnvError,
    lies_inside,
    nearest,
    probe_env,
    read_facts,
    ready_count,
    registered,
)
from fastdqn.envs.watchdog import watch_making
from fastdqn.files.run_folder import folder_problem
from fastdqn.ranks.torchrun import local_rank, program, world_size
from fastdqn.study.study_folder import names_no_run
from fastdqn.tabular.files import is_table_run

# Reserve of device memory for libraries. Not tuned.
_DEVICE_SPARE_BYTES = 1 << 30


class Setup(NamedTuple):
    """A validated run, ready to be built.

    Attributes:
        requested: The options as they were given.
        config: The resolved options.
        facts: Of the environment.
        own: Objects from Python.
        size: Size of the network.
        notes: Lines about the choices.
    """

    requested: Config
    config: ResolvedConfig
    facts: EnvFacts
    own: UserParts
    size: NetworkSize
    notes: list[str]

    def placed_in(self, folder: Path) -> "Setup":
        """Returns the setup with another run folder."""
        return self._replace(
            requested=self.requested.replace(run_dir=str(folder)),
            config=self.config.replace(run_dir=str(folder)),
        )


def check(config: Config, factory: Factory | None = None, mistaken: bool = False) -> list[str]:
    """Validates a config, its environment and the machine, as prepare(). Returns its messages."""
    return prepare(config, None, factory, mistaken)[1]


def prepare(
    config: Config,
    facts: EnvFacts | None = None,
    factory: Factory | None = None,
    mistaken: bool = False,
    eval_envs: VectorEnv | None = None,
    own: UserParts = NO_PARTS,
) -> tuple[Setup | None, list[str]]:
    """Validates a config, its environment and the machine, and resolves the options.

    Args:
        config: The options.
        facts: Of existing environments. None: one environment is made and closed.
        factory: Makes an environment, in place of env_id.
        mistaken: Whether errors were found before, so that an EnvError is not raised.
        eval_envs: Existing evaluation environments, or None.
        own: Objects from Python.

    Returns:
        The setup, or None with error messages.

    Raises:
        EnvError: The environment fails or times out, and there are no errors.
    """
    if lines := config.type_problems():
        return None, lines  # the other checks need values of the declared types
    if config.ranks == 1 and world_size() > 1:
        config = config.replace(ranks=world_size())
    lines = [*config.problems(), *problems_around(config), *part_problems(config, own)]
    how, why = config.vectorization, None
    try:
        if facts is None:
            made_by = recipe(config, factory)
            facts, how, why = look_at(config, factory), made_by.resolve(), made_by.not_compiled()
    except UnknownEnvError as error:
        return None, [*lines, unknown_subject(config.env_id) or str(error)]
    except ValueError as error:
        return None, [*lines, str(error)]
    except EnvError:
        if not (lines or mistaken):
            raise
        return None, lines
    if line := torso_problem(settle(config, facts)["torso"], facts.obs_shape):
        lines = [*lines, line]
    lines = [*lines, *_store_problems(config, facts), *evaluation_problems(facts, eval_envs)]
    made, lines = set_up(config, facts, how, own, lines)
    if made is not None and why is not None:
        made.notes.append(f"vectorization {how}: {why}")
    return made, lines


def set_up(
    config: Config, facts: EnvFacts, vectorization: str, own: UserParts, lines: list[str]
) -> tuple[Setup | None, list[str]]:
    """Resolves validated options and checks memory. Returns as prepare().

    lines: errors found before. Nothing is resolved if there are any.
    """
    if lines:
        return None, lines
    try:
        resolved, notes, size = resolve(config, facts, vectorization, own)
    except ConfigError as error:
        return None, error.lines
    except ValueError as error:  # the torso does not fit
        return None, [str(error)]
    lines = resolved.problems() or memory_problems(resolved, facts, size, own)
    share = resolved if lines else share_of(resolved, local_index=local_rank())
    lines = lines or [line for line in (_device_problem(share),) if line]
    lines = lines or _device_memory_problems(share, facts, size)
    return (None if lines else Setup(config, resolved, facts, own, size, notes)), lines


def preview(config: Config) -> Setup:
    """Returns the setup of a run that is not started. Raises ConfigError."""
    setup, lines = prepare(config)
    if setup is None:
        raise ConfigError(lines)
    return setup


def evaluation_problems(facts: EnvFacts, eval_envs: VectorEnv | None) -> list[str]:
    """Returns messages on why a policy for these environments cannot be evaluated on eval_envs."""
    if eval_envs is None:
        return []
    lines = []
    if ready_count(eval_envs) < eval_envs.num_envs:
        lines.append(
            f"a step of eval_envs returns {ready_count(eval_envs)} of {eval_envs.num_envs} "
            "environments, and an evaluation needs all: make them without a batch_size"
        )
    try:
        theirs = read_facts(eval_envs)
    except ValueError as error:
        return [*lines, f"eval_envs: {error}"]
    parts = ("obs_shape", "obs_dtype", "obs_scale", "num_actions", "action_start")
    differences = [
        f"{name} {getattr(theirs, name)}, not {getattr(facts, name)}"
        for name in parts
        if getattr(theirs, name) != getattr(facts, name)
    ]
    if differences:
        lines.append(
            f"eval_envs have other spaces than envs: {'; '.join(differences)}. Both must have "
            "the same"
        )
    return lines


def problems_around(config: Config) -> list[str]:
    """Returns error messages about devices, packages and the run folder."""
    finders = (
        _device_problem,
        _cuda_problem,
        _tensorboard_problem,
        _wandb_problem,
        _folder_problem,
        _compiler_problem,
        ranks_problem,
    )
    return [line for find in finders if (line := find(config))] + _missing_sources(config)


def machine_problems(config: Config) -> list[str]:
    """Returns error messages about what this machine lacks for a run."""
    return [line for line in (_device_problem(config), _compiler_problem(config)) if line]


def ranks_problem(config: Config) -> str | None:
    """Returns a message if another number of processes was started, or None."""
    started = world_size()
    if config.ranks == started:
        return None
    count = "1 process was" if started == 1 else f"{started} processes were"
    return f"ranks is {config.ranks}, and {count} started: use {program(config.ranks)}"


def resume_problems(
    config: Config,
    envs: object,
    total_timesteps: int | None,
    steps: int,
    handed_in: bool | None = None,
) -> list[str]:
    """Returns error messages on why a run cannot be resumed, without a look at its environment.

    Args:
        config: Options of the run.
        envs: Environments passed to resume(), or None.
        total_timesteps: The new total of steps, or None.
        steps: Steps made so far.
        handed_in: Whether the run's environments were passed from Python. None: unknown.
    """
    lines = [*machine_problems(config), *filter(None, [ranks_problem(config)])]
    if total_timesteps is not None and total_timesteps <= steps:
        lines.append(
            f"total_timesteps is {total_timesteps}, and {steps} steps are already made: it is the "
            "new total, not an increment"
        )
    if handed_in is None:  # an older version did not record it, and left auto for a VectorEnv
        handed_in = config.vectorization == "auto" or envs is not None
    if envs is not None and not handed_in:
        lines.append(
            f"the run's environments are made from its env_id, {config.env_id!r}, and others would "
            "not be recorded: leave envs out, or start a new run"
        )
    if envs is None and handed_in:
        lines.append(
            f"the run's environments were passed from Python, and {config.env_id!r} may differ: "
            "pass them again, fastdqn.resume(run, envs)"
        )
    return lines


def prepare_validated(
    config: Config,
    facts: EnvFacts | None,
    factory: Factory | None,
    own: UserParts,
    lines: list[str],
) -> tuple[Setup | None, list[str]]:
    """As prepare(), for options that were validated before, such as those of a stored run.

    Args:
        config: The options.
        facts: Of existing environments. None: one environment is made and closed.
        factory: Makes an environment, in place of env_id.
        own: Objects from Python.
        lines: Errors found before.
    """
    lines, how = [*lines, *part_problems(config, own)], config.vectorization
    try:
        if facts is None:
            facts, how = look_at(config, factory), recipe(config, factory).resolve()
    except UnknownEnvError as error:
        hint = "environments that were passed from Python must be passed again"
        return None, [*lines, f"{error}; {hint}"]
    except ValueError as error:
        return None, [*lines, str(error)]
    return set_up(config, facts, how, own, [*lines, *_store_problems(config, facts)])


def stray_modules(config: Config, folder: str) -> list[str]:
    """Returns a message for each module that a run would import from its own folder."""
    named = {"env_id": config.env_id, **{f"wrapper {w!r}": w for w in config.wrapper}}
    named |= {
        f"{option} {name!r}": name for option in PART_OPTIONS if (name := getattr(config, option))
    }
    return [
        f"{what} names the module {module!r} inside the run folder, which must not contain code: "
        "move it elsewhere"
        for what, name in named.items()
        if (module := name.rpartition(":")[0]) and lies_inside(module, folder)
    ]


def unknown_subject(name: str) -> str | None:
    """Returns a message for an unknown preset or environment, or None without a similar one."""
    near = " or ".join(filter(None, (nearest(name, PRESETS), nearest(name, registered()))))
    if ":" in name or not near:
        return None
    return f"unknown preset or environment {name!r}: did you mean {near}?"


def recipe(config: Config, factory: Factory | None = None) -> EnvRecipe:
    """Returns how the sub-environments of a run are made: from env_id, or by a factory."""
    return EnvRecipe(
        factory or config.env_id,
        config.vectorization,
        config.env_kwargs,
        config.wrapper,
        config.atari_protocol,
        config.info_keys,
        config.workers,
        config.double_buffering,
    )


def look_at(config: Config, factory: Factory | None = None) -> EnvFacts:
    """Returns the facts of a run's environment. Raises what probe_env() does, and EnvError."""
    how = recipe(config, factory)
    with watch_making(str(how), config.max_step_seconds):
        return probe_env(how)


def _device_problem(config: Config) -> str | None:
    name = config.device
    if name == "auto":
        return None
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        return f"device is {name!r}: it must be auto, cpu, cuda or cuda:N"
    if name == "cpu":
        return None
    if device.type != "cuda":
        return f"device is {name!r}: it must be auto, cpu, cuda or cuda:N"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) < count:
        return None
    return f"device is {name!r}: this machine has {count} CUDA devices. Use --device cpu or auto"


def _cuda_problem(config: Config) -> str | None:
    if config.device != "auto" or not wants_cuda(config) or torch.cuda.is_available():
        return None
    asked = f"precision is {config.precision}"
    if is_graph(config.capture):
        asked = f"capture is {config.capture}"
    elif config.store == "device":
        asked = "store is device"
    return f"{asked}, which needs a CUDA device, and this machine has none: use auto"


def _device_memory_problems(
    config: ResolvedConfig, facts: EnvFacts, size: NetworkSize
) -> list[str]:
    """Returns error messages about memory of the device that a run would use."""
    if config.device == "cpu":
        return []
    room = torch.cuda.mem_get_info(torch.device(config.device))[0] - _DEVICE_SPARE_BYTES
    return device_problems(config, facts, size, max(0, room))


def _wandb_problem(config: Config) -> str | None:
    if config.wandb and importlib.util.find_spec("wandb") is None:
        return "wandb is not installed: pip install 'fastdqn[wandb]'"
    return None


def _tensorboard_problem(config: Config) -> str | None:
    if config.tensorboard is True and importlib.util.find_spec("tensorboard") is None:
        return "tensorboard is not installed: pip install 'fastdqn[tensorboard]'"
    return None


def _compiler_problem(config: Config) -> str | None:
    compilers = (os.environ.get("CXX") or "g++", "g++", "clang++")
    if not is_compiled(config.capture) or any(map(shutil.which, compilers)):
        return None
    return (
        f"capture is {config.capture}, which needs a C++ compiler: install g++, or use "
        "--capture eager"
    )


def _folder_problem(config: Config) -> str | None:
    return None if config.run_dir is None else folder_problem(config.run_dir)


def _missing_sources(config: Config) -> list[str]:
    """Returns a message for each file or run that a run is to start from, and that is not there."""
    named = [("init_weights", config.init_weights), ("from_run", config.from_run)]
    named += [("prefill", each) for each in config.prefill if not each.startswith(MINARI_PREFIX)]
    problems = [_source_problem(option, path) for option, path in named if path is not None]
    return [line for line in problems if line]


def _source_problem(option: str, path: str) -> str | None:
    """Returns why a run cannot start from what a path names, or None."""
    if not path:
        return f"{option} is empty: name a run or a file, or leave it out"
    if not os.path.exists(path):
        return f"{option} is {path!r}, which does not exist"
    if other := names_no_run(path):
        return f"{option} is {path!r}, {other}"
    if is_table_run(Path(path)):
        return f"{option} is {path!r}, a tabular run, which has no network and no replay"
    return None


def _store_problems(config: Config, facts: EnvFacts) -> list[str]:
    if not keeps_frames(config, facts.stack):
        return []
    if facts.stack == 1:
        return [
            "store is frames, and the environment declares no stacked frames, as "
            "FrameStackObservation, ale-py and EnvPool do: use --store rows"
        ]
    # Two episode starts, as after a lost life and a reset, the end before them, and a valid row
    # after its stack: with fewer rows there would be moments without a valid one.
    least = (2 * facts.stack + 1) * config.num_envs
    if not 2 * config.num_envs <= config.buffer_size < least:
        return []
    return [
        f"buffer_size is {config.buffer_size}: {config.num_envs} environments with stacks of "
        f"{facts.stack} frames need at least {least}, {2 * facts.stack + 1} rows each"
    ]
