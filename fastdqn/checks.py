"""Checks: what would keep a run from starting, found before anything large is made."""

import importlib.util
import itertools
import math
import os
import shutil
from typing import Any

import torch

from fastdqn.acting import (
    EnvError,
    EnvFacts,
    EnvRecipe,
    Factory,
    UnknownEnvError,
    lies_inside,
    look,
    nearest,
    registered,
)
from fastdqn.combinations import sized
from fastdqn.config import Config
from fastdqn.memory import available_bytes
from fastdqn.presets import PRESETS
from fastdqn.record.folder import folder_problem
from fastdqn.replay import NewestSampler, PrioritizedSampler, Ring, rows_per_lane
from fastdqn.torsos import CONVOLUTIONS, needs, settle
from fastdqn.torsos import problem as torso_problem
from fastdqn.values import embedding_weights, numbers_a_sample, outputs_per_action


def check(
    config: Config,
    facts: EnvFacts | None = None,
    factory: Factory | None = None,
    mistaken: bool = False,
) -> list[str]:
    """Every mistake in config and around it, one line each; nothing large is allocated.

    facts    of environments that are there already; None: one is made and closed again
    factory  makes one, in place of env_id
    mistaken whether there are mistakes already, found by others
    Raises EnvError where its reset fails, and there is no mistake.
    """
    if lines := config.type_problems():
        return lines  # values of other types than promised can be asked nothing more
    lines = [*config.problems(), *problems_around(config)]
    try:
        facts = facts or look(recipe(config, factory))
    except UnknownEnvError as error:
        return [*lines, unknown_subject(config.env_id) or str(error)]
    except ValueError as error:
        return [*lines, str(error)]
    except EnvError:
        if not (lines or mistaken):
            raise
        return lines
    settled = settle(config, facts)
    if line := torso_problem(settled.torso, facts.obs_shape):
        lines = [*lines, line]
    lines = [*lines, *_store_problems(config, facts)]
    return lines or settled.problems() or _memory_problems(config, facts)


def problems_around(config: Config) -> list[str]:
    """What of the machine and its files keeps a run from starting, one line each."""
    finders = (_device_problem, _tensorboard_problem, _folder_problem, _compiler_problem)
    return [line for find in finders if (line := find(config))]


def check_resume(
    config: Config, envs: object, total_timesteps: int | None, steps: int, had: int | None
) -> list[str]:
    """What would keep a run from going on after steps, one line each.

    envs   what was handed in, if anything; had  the total of steps that the run had
    """
    lines = [line for line in (_device_problem(config), _compiler_problem(config)) if line]
    if total_timesteps is not None and total_timesteps <= steps:
        lines.append(
            f"total_timesteps is {total_timesteps}, and {steps} steps are made already: it is the "
            "new total, not what is added"
        )
    if envs is None and config.vectorization == "auto":  # nothing resolved it: a VectorEnv
        lines.append(
            f"the run's environments were handed in, and {config.env_id!r} need not make the same: "
            "hand them in again, fastdqn.resume(run, envs)"
        )
    elif envs is None:
        try:
            facts = look(recipe(config))
            lines += _store_problems(config, facts) or _memory_problems(config, facts)
        except UnknownEnvError as error:
            lines.append(f"{error}; environments that were handed in must be handed in again")
        except ValueError as error:
            lines.append(str(error))
    return lines


def stray_modules(config: Config, folder: str) -> list[str]:
    """A line for each module that options of a run's folder would import out of that folder."""
    named = {"env_id": config.env_id, **{f"wrapper {w!r}": w for w in config.wrapper}}
    return [
        f"{what} names the module {module!r} inside the run's folder, which holds no code: move "
        "it elsewhere"
        for what, name in named.items()
        if (module := name.rpartition(":")[0]) and lies_inside(module, folder)
    ]


def unknown_subject(name: str) -> str | None:
    """The line for a name that may have been meant for a preset's."""
    near = " or ".join(filter(None, (nearest(name, PRESETS), nearest(name, registered()))))
    if ":" in name or not near:
        return None
    return f"no preset or environment is called {name!r}: did you mean {near}?"


def recipe(config: Config, factory: Factory | None = None) -> EnvRecipe:
    """How the lanes of a run are made: of env_id, or by a factory."""
    return EnvRecipe(
        factory or config.env_id,
        config.vectorization,
        config.env_kwargs,
        config.wrapper,
        config.atari_protocol,
    )


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
    return f"device is {name!r}: this machine has {count} CUDA devices; use --device cpu or auto"


def _tensorboard_problem(config: Config) -> str | None:
    if config.tensorboard is True and importlib.util.find_spec("tensorboard") is None:
        return "tensorboard is not installed: pip install 'fastdqn[tensorboard]'"
    return None


def _compiler_problem(config: Config) -> str | None:
    compilers = (os.environ.get("CXX") or "g++", "g++", "clang++")
    if config.capture != "compile" or any(map(shutil.which, compilers)):
        return None
    return "capture is compile, which needs a C++ compiler, and none is here: install g++, or eager"


def _folder_problem(config: Config) -> str | None:
    return None if config.run_dir is None else folder_problem(config.run_dir)


def keeps_frames(config: Config, stack: int) -> bool:
    """Whether a row of the replay keeps the newest of stacked frames alone."""
    return config.store == "frames" or (config.store == "auto" and stack > 1)


def _store_problems(config: Config, facts: EnvFacts) -> list[str]:
    if not keeps_frames(config, facts.stack):
        return []
    if facts.stack == 1:
        return [
            "store is frames, and nothing declares that observations are stacked frames, as "
            "FrameStackObservation around a lane, ale-py and EnvPool do: use --store rows"
        ]
    # Those of two beginnings, as a game's last life and the reset are, the end before them, and a
    # valid one behind its own stack: else there are moments with none.
    least = (2 * facts.stack + 1) * config.num_envs
    if not 2 * config.num_envs <= config.buffer_size < least:
        return []
    return [
        f"buffer_size is {config.buffer_size}: {config.num_envs} environments that stack "
        f"{facts.stack} frames need at least {least}, {2 * facts.stack + 1} rows each"
    ]


def _memory_problems(config: Config, facts: EnvFacts) -> list[str]:
    """Refuse what is larger than memory before a byte of it is allocated."""
    room, config = available_bytes(), sized(settle(config, facts), _stack(config, facts))
    if room is None:
        return []
    network = network_bytes(config, facts)
    if network > room:
        return [
            f"a network of hidden_sizes {config.hidden_sizes} for {facts.num_actions} actions, its "
            f"optimizer and a batch of {config.batch_size} need {network / 2**30:,.1f} GiB and "
            f"{room / 2**30:.1f} GiB are available"
        ]
    needed = network + replay_bytes(config, facts) + checkpoint_bytes(config, facts)
    if needed <= room:
        return []
    row = _row_bytes(config, facts) + _saved_bytes(config, facts)
    batch = network + 2 * _obs_bytes(facts) * config.batch_size
    around = rows_per_lane(0, config.num_envs, config.n_steps, _stack(config, facts))
    fits = ((room - batch) // (row * config.num_envs) - around) * config.num_envs
    return [
        f"buffer_size is {config.buffer_size}: the run needs {needed / 2**30:,.1f} GiB and "
        f"{room / 2**30:.1f} GiB are available; the largest --buffer-size that fits is about "
        f"{max(0, fits)}"
    ]


def replay_bytes(config: Config, facts: EnvFacts) -> int:
    """Host memory that the replay of a run takes: its rows, and one batch."""
    batch = 2 * _obs_bytes(facts) * config.batch_size
    return _rows(config, facts) * _row_bytes(config, facts) + batch


def checkpoint_bytes(config: Config, facts: EnvFacts) -> int:
    """Host memory that a checkpoint takes while it is written: a copy of the rows that have come
    since the last one, at most all of them."""
    return _rows(config, facts) * _saved_bytes(config, facts)


def network_weights(config: Config, facts: EnvFacts) -> int:
    """Weights of torso and head, counted without making them."""
    settled = settle(config, facts)
    if settled.torso in CONVOLUTIONS:
        return _convolution_weights(settled, facts)
    outputs = (facts.num_actions + config.dueling) * (outputs_per_action(config) or 1)
    sizes = (math.prod(facts.obs_shape), *settled.hidden_sizes, outputs)
    layers = [(fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes)]
    deviations = sum(layers[1:] or layers) if config.noisy else 0
    # Noisy layers behind the first belong to the head, which the embedding stands before.
    embedded = sizes[min(1, len(sizes) - 2)] if config.noisy else sizes[-2]
    return sum(layers) + deviations + embedding_weights(config, embedded)


def _convolution_weights(config: Any, facts: EnvFacts) -> int:
    """As network_weights(): hidden layers belong to the head, and to each of its streams."""
    torso = needs(config.torso, facts.obs_shape)
    streams = (1, facts.num_actions) if config.dueling else (facts.num_actions,)
    total = torso.weights + embedding_weights(config, torso.features)
    for of_actions in streams:
        outputs = of_actions * (outputs_per_action(config) or 1)
        sizes = (torso.features, *config.hidden_sizes, outputs)
        layers = sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))
        total += layers * (2 if config.noisy else 1)
    return total


def _kept_by_mlp(config: Any, facts: EnvFacts) -> int:
    """About how many numbers an update keeps for each sample; config has its hidden_sizes."""
    units = sum(config.hidden_sizes) + math.prod(facts.obs_shape) + 4 * facts.num_actions
    inner = (math.prod(facts.obs_shape), *config.hidden_sizes)
    # Fractions multiply all that stands behind the torso: noisy layers do.
    features = sum(inner) if config.noisy else inner[-1]
    return units + numbers_a_sample(config, facts.num_actions, features)


def _kept_by_convolutions(config: Any, facts: EnvFacts) -> int:
    """As _kept_by_mlp()."""
    torso = needs(config.torso, facts.obs_shape)
    behind = (1 + config.dueling) * sum(config.hidden_sizes)
    fractions = numbers_a_sample(config, facts.num_actions, torso.features + behind)
    return torso.numbers + torso.features + behind + 4 * facts.num_actions + fractions


def network_bytes(config: Config, facts: EnvFacts) -> int:
    """Memory of the learner: weights, gradient, target, Adam's two moments, and, while it is
    prepared, a copy of all but the target; the dueling head's constant matrix, twice; and what
    a batch leaves for the backward pass: each layer's output and its gradient."""
    settled = settle(config, facts)
    combine = 2 * facts.num_actions * (facts.num_actions + 1) if config.dueling else 0
    kept = _kept_by_convolutions if settled.torso in CONVOLUTIONS else _kept_by_mlp
    units = kept(settled, facts)
    # A pass keeps a noisy layer's weights with their noise, and the noise of each.
    copies = 8 + config.target_network + 2 * config.noisy
    return 4 * (copies * network_weights(config, facts) + combine + 3 * config.batch_size * units)


def _obs_bytes(facts: EnvFacts) -> int:
    return facts.obs_dtype.itemsize * math.prod(facts.obs_shape)


def _saved_bytes(config: Config, facts: EnvFacts) -> int:
    """Of a row in a checkpoint: the row, and for a moment its place."""
    return _row_bytes(config, facts) + 8 if config.checkpoint_replay else 0


def _stack(config: Config, facts: EnvFacts) -> int:
    """Rows that an observation lies in."""
    return facts.stack if keeps_frames(config, facts.stack) else 1


def _rows(config: Config, facts: EnvFacts) -> int:
    each = rows_per_lane(config.buffer_size, config.num_envs, config.n_steps, _stack(config, facts))
    return each * config.num_envs


def _row_bytes(config: Config, facts: EnvFacts) -> int:
    mask = facts.num_actions if facts.has_masks else 0
    sampler = PrioritizedSampler.BYTES_PER_ROW if config.prioritized else 0
    sampler += 0 if config.replay else NewestSampler.BYTES_PER_ROW
    return _obs_bytes(facts) // _stack(config, facts) + Ring.BYTES_PER_ROW + mask + sampler
