"""Validation of combinations of options: conflicts, remarks and derived values."""

import itertools
import types
from collections.abc import Iterator
from typing import Any

from fastdqn.config.atari_protocols import is_atari
from fastdqn.config.registry import WORDS

# What --from takes by default.
ALL_PARTS = ("weights", "optimizer", "replay")
# Options of which each rank has an equal part.
DIVIDED = ("num_envs", "batch_size", "buffer_size", "env_batch_size", "workers")
# Backups that other options choose. Any other word replaces the choice.
_SWITCHED_BACKUPS = ("max", "double", "munchausen")


def conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Yields (names of the options, whether they conflict, the message)."""
    yield from _budget_conflicts(c)
    yield from _start_conflicts(c)
    yield from _schedule_conflicts(c)
    yield from _vectorization_conflicts(c)
    yield from _actor_conflicts(c)
    yield from _exploration_conflicts(c)
    yield from _value_conflicts(c)
    yield from _part_conflicts(c)
    yield from _replay_conflicts(c)
    yield from _device_conflicts(c)
    yield from _rank_conflicts(c)


def _budget_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Yields conflicts between the length of the run and the size of the replay."""
    steps, episodes = c.total_timesteps, c.total_episodes
    yield (
        "total_timesteps total_episodes",
        steps is None and episodes is None,
        "total_timesteps and total_episodes are both None: the run would never end. Set one",
    )
    yield (
        "total_timesteps exploration_decay",
        steps is None
        and episodes is not None
        and c.exploration_decay is None
        and c.exploration == "schedule"
        and epsilons(c)[0] != epsilons(c)[1],
        "exploration_fraction is a fraction of total_timesteps, which is None: set "
        "total_timesteps or exploration_decay",
    )
    yield (
        "batch_size buffer_size",
        c.replay and c.batch_size > c.buffer_size,
        f"batch_size is {c.batch_size}, buffer_size only {c.buffer_size}: a batch must fit into "
        "the replay buffer",
    )
    yield (
        "buffer_size num_envs",
        c.replay and c.buffer_size < 2 * c.num_envs,
        f"buffer_size is {c.buffer_size}: {c.num_envs} environments need at least "
        f"{2 * c.num_envs}, two rows each",
    )
    yield (
        "learning_starts total_timesteps train_frequency",
        steps is not None
        and not starts_with_data(c)
        and c.train_frequency > 0
        and steps // c.train_frequency <= min(c.learning_starts, steps) // c.train_frequency,
        f"learning_starts is {c.learning_starts}, total_timesteps only {steps}: with an update "
        f"every {c.train_frequency} steps, nothing would be learned",
    )
    windows = c.num_envs * (c.n_steps - 1)
    yield (
        "learning_starts num_envs n_steps",
        c.learning_starts < windows and not starts_with_data(c),
        f"learning_starts is {c.learning_starts}: {c.num_envs} environments need {windows} steps "
        f"before every {c.n_steps}-step window can be complete",
    )
    first = windows + c.train_frequency - 1
    yield (
        "learning_starts num_envs n_steps train_frequency",
        not c.replay and c.learning_starts >= windows and c.learning_starts < first,
        f"learning_starts is {c.learning_starts}: without replay {first} steps are needed before "
        f"{c.train_frequency} windows of {c.n_steps} can have been completed for the first update",
    )
    yield (
        "stop_at_return eval_frequency",
        c.stop_at_return is not None and c.eval_frequency == 0,
        "stop_at_return needs evaluations, and eval_frequency is 0: set eval_frequency, or "
        "stop_at_return to None",
    )


def starts_with_data(c: Any) -> bool:
    """Returns whether the replay holds transitions before the first step."""
    return bool(c.prefill) or (c.from_run is not None and "replay" in c.from_parts)


def _start_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Yields conflicts of what a run starts from."""
    parts = " ".join(c.from_parts) or "empty"
    yield (
        "init_weights from_run from_parts",
        c.init_weights is not None and c.from_run is not None and "weights" in c.from_parts,
        "init_weights and from_run both give the weights: leave one out, or give --from-parts "
        "replay",
    )
    yield (
        "from_run from_parts",
        c.from_run is None and set(c.from_parts) != set(ALL_PARTS),
        f"from_parts is {parts}, and from_run is None: add --from RUN, or leave out --from-parts",
    )
    yield (
        "from_run from_parts",
        c.from_run is not None and not c.from_parts,
        "from_parts is empty: name what to take, weights, optimizer or replay",
    )
    yield (
        "from_run from_parts",
        c.from_run is not None and "optimizer" in c.from_parts and "weights" not in c.from_parts,
        f"from_parts is {parts}: the optimizer state belongs to the weights. Add weights",
    )
    yield (
        "replay prefill from_run from_parts",
        not c.replay and starts_with_data(c),
        "prefill and from_run fill a replay buffer, and --no-replay has none: leave one out",
    )
    yield (
        "offline prefill from_run from_parts",
        c.offline and not starts_with_data(c),
        "offline is true, and the run has no data: give --prefill, or --from with the replay",
    )
    yield (
        "offline total_timesteps",
        c.offline and c.total_timesteps is None,
        "offline is true, and total_timesteps is None: an offline run has no episodes to end it",
    )


def _schedule_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Yields conflicts of the learning rate's schedule."""
    schedule, points = c.learning_rate_schedule, c.learning_rate_steps
    yield (
        "learning_rate_schedule total_timesteps",
        schedule in ("linear", "cosine") and c.total_timesteps is None,
        f"learning_rate_schedule is {schedule}, which ends at total_timesteps, and that is None: "
        "set total_timesteps, or use constant or piecewise",
    )
    yield (
        "learning_rate_schedule learning_rate_steps learning_rate_values",
        schedule == "piecewise" and not points,
        "learning_rate_schedule is piecewise, and learning_rate_steps is empty: give its points, "
        "such as --learning-rate-steps 100000 200000 --learning-rate-values 1e-4 1e-5",
    )
    yield (
        "learning_rate_schedule learning_rate_steps learning_rate_values",
        schedule in WORDS["learning_rate_schedule"]
        and schedule != "piecewise"
        and bool(points or c.learning_rate_values),
        f"learning_rate_steps and learning_rate_values are for a piecewise schedule, and "
        f"learning_rate_schedule is {schedule}: use --learning-rate-schedule piecewise",
    )
    yield (
        "learning_rate_schedule final_learning_rate",
        schedule in ("constant", "piecewise") and c.final_learning_rate != 0.0,
        f"final_learning_rate is {c.final_learning_rate:g}, which is for a linear or cosine "
        f"schedule, and learning_rate_schedule is {schedule}: use --learning-rate-schedule linear",
    )
    yield (
        "learning_rate_steps learning_rate_values",
        len(points) != len(c.learning_rate_values),
        f"learning_rate_steps has {len(points)} points and learning_rate_values "
        f"{len(c.learning_rate_values)}: give as many of both",
    )
    yield (
        "learning_rate_steps",
        any(later <= earlier for earlier, later in itertools.pairwise(points)),
        f"learning_rate_steps is {' '.join(map(str, points))}: the steps must ascend",
    )


def _vectorization_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Yields conflicts of how environments are vectorized."""
    batch = chosen_env_batch(c)
    yield (
        "env_batch_size num_envs",
        c.env_batch_size is not None and c.env_batch_size > c.num_envs,
        f"env_batch_size is {c.env_batch_size}, num_envs only {c.num_envs}: a step cannot wait for "
        "more environments than there are",
    )
    yield (
        "env_batch_size",
        c.env_batch_size not in (None, c.num_envs)
        and c.vectorization not in ("async", "envpool", "workers")
        and not (is_atari(c.env_id) and c.vectorization in ("auto", "native") and not c.wrapper),
        f"env_batch_size is {c.env_batch_size}: vectorization {c.vectorization} steps all "
        f"{c.num_envs} environments together. Use workers, async, envpool, or an Atari id",
    )
    yield (
        "workers vectorization",
        c.workers is not None and c.vectorization != "workers",
        f"workers is {c.workers}, and vectorization {c.vectorization}: use --vectorization workers",
    )
    yield (
        "env_batch_size workers num_envs",
        c.vectorization == "workers"
        and batch is not None
        and not are_whole_groups(batch, c.num_envs, c.workers),
        f"env_batch_size is {batch} of {c.num_envs} environments"
        + (f" in {c.workers} workers" if c.workers else "")
        + ": vectorization workers needs groups of one size, of which the batch is a multiple. Use "
        "another --env-batch-size, --workers or --num-envs",
    )
    yield (
        "double_buffering vectorization",
        c.double_buffering and c.vectorization != "workers",
        f"double_buffering with vectorization {c.vectorization}: only the batches of worker "
        "processes return in strict turns. Use --vectorization workers",
    )
    yield (
        "double_buffering env_batch_size num_envs",
        c.double_buffering and 2 * (batch or c.num_envs) != c.num_envs,
        f"double_buffering with {c.num_envs} environments: two halves need an even --num-envs"
        if c.num_envs % 2
        else f"double_buffering with env_batch_size {batch} of {c.num_envs} environments: leave "
        f"--env-batch-size out, or use {c.num_envs // 2}, one half",
    )
    yield (
        "workers num_envs",
        c.workers is not None and c.workers > c.num_envs,
        f"workers is {c.workers}, num_envs only {c.num_envs}: each worker needs an environment",
    )
    yield (
        "restart_envs vectorization",
        c.restart_envs > 0 and c.vectorization not in ("async", "workers"),
        f"restart_envs is {c.restart_envs}, and only worker processes can be restarted: use "
        "--vectorization workers or async",
    )


def _actor_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Yields conflicts of actors."""
    yield (
        "actors actor_num_envs",
        c.actors == 0 and c.actor_num_envs is not None,
        f"actor_num_envs is {c.actor_num_envs}, and actors is 0: give --actors, or --num-envs",
    )
    yield (
        "actors ray_address",
        c.actors == 0 and c.ray_address != "local",
        f"ray_address is {c.ray_address!r:.60}, and actors is 0: give --actors, or use --ray with "
        "--seeds",
    )
    yield (
        "actors num_envs",
        c.actors > 0 and c.num_envs % c.actors != 0,
        f"num_envs is {c.num_envs}, which {c.actors} actors cannot share equally: use "
        f"--actor-num-envs {max(1, c.num_envs // max(1, c.actors))}, or another --num-envs",
    )
    yield (
        "actors offline",
        c.actors > 0 and c.offline,
        "offline is true, and actors step environments: leave one of them out",
    )
    yield (
        "actors replay",
        c.actors > 0 and not c.replay,
        "actors send blocks of transitions, of which --no-replay keeps too few: leave one of them "
        "out",
    )
    yield (
        "actors env_batch_size double_buffering",
        c.actors > 0 and (c.env_batch_size is not None or c.double_buffering),
        "an actor steps all of its environments together: leave out --env-batch-size and "
        "--double-buffering, or --actors",
    )
    yield (
        "actors restart_envs",
        c.actors > 0 and c.restart_envs > 0,
        f"restart_envs is {c.restart_envs}, and an actor is replaced as a whole: use "
        "--actor-restarts",
    )
    yield (
        "actors workers num_envs",
        c.actors > 0 and c.workers is not None and c.workers * c.actors > c.num_envs,
        f"workers is {c.workers} for each of {c.actors} actors, num_envs only {c.num_envs}: each "
        "worker needs an environment",
    )
    yield (
        "actors actor_priorities prioritized",
        c.actor_priorities and not (c.actors > 0 and c.prioritized),
        "actor_priorities is true, which needs --actors and --prioritized",
    )
    yield (
        "actor_priorities normalize_reward",
        c.actor_priorities and c.normalize_reward,
        "actor_priorities is true, and actors do not know the scale of normalize_reward: leave one "
        "of them out",
    )


def are_whole_groups(env_batch_size: int, num_envs: int, workers: int | None) -> bool:
    """Returns whether a batch of environments is that of some workers. None: one for each batch."""
    if env_batch_size == num_envs:
        return True
    groups = num_envs // env_batch_size if workers is None else workers
    return num_envs % groups == 0 and env_batch_size % max(1, num_envs // groups) == 0


def _exploration_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Yields conflicts of the exploration schedule."""
    yield (
        "exploration_decay",
        c.exploration == "ladder" and c.exploration_decay is not None,
        "exploration is ladder, whose epsilon is constant, and exploration_decay is set: leave "
        "one of them out",
    )
    yield (
        "num_envs",
        c.exploration == "ladder" and c.num_envs == 1,
        f"exploration is ladder, one epsilon for each environment, and num_envs is 1: the only "
        f"environment would explore with epsilon {c.ladder_epsilon} to the end",
    )
    initial, final = epsilons(c)
    yield (
        "exploration_initial_eps exploration_final_eps",
        final > initial,
        f"exploration_final_eps is {final}, above exploration_initial_eps {initial}: epsilon can "
        "only decay",
    )


def _value_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Yields what a value cannot be combined with."""
    yield (
        "v_min v_max num_atoms",
        c.value in ("categorical", "hl-gauss") and not _has_distinct_atoms(c),
        f"v_min is {c.v_min}, v_max {c.v_max}: the {c.num_atoms} atoms between them must be "
        "distinct in float32. Raise v_max or lower v_min",
    )
    yield (
        "value munchausen",
        c.munchausen and c.value == "categorical",
        "munchausen adds an entropy bonus to the bootstrap value, which fixed atoms cannot "
        "represent: use --value scalar, quantile, implicit-quantile or hl-gauss",
    )
    yield (
        "value loss",
        c.loss != "mse" and c.value in WORDS["value"] and c.value != "scalar",
        f"loss is {c.loss}, which is for scalar values, and value {c.value} has its own loss: "
        "use --loss mse",
    )


def _part_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Yields conflicts between a named backup or sampler and the switches that choose another."""
    switched = chosen_backup(c, "auto")
    yield (
        "backup double munchausen target_network",
        c.backup in _SWITCHED_BACKUPS and c.backup != switched,
        f"backup is {c.backup}, and double, munchausen and target_network choose {switched}: "
        "leave out --backup, or change them",
    )
    yield (
        "backup munchausen",
        c.munchausen and c.backup not in ("auto", *_SWITCHED_BACKUPS),
        f"backup is {c.backup}, which takes the place of munchausen: leave one of them out",
    )
    switched = chosen_sampler(c, "auto")
    yield (
        "sampler prioritized replay",
        c.sampler != "auto"
        and c.sampler != switched
        and (switched != "uniform" or c.sampler in ("prioritized", "newest")),
        f"sampler is {c.sampler}, and "
        + (
            {"newest": "--no-replay", "prioritized": "--prioritized"}[switched]
            + f" chooses {switched}: leave one of them out"
            if switched != "uniform"
            else f"it needs {'--prioritized' if c.sampler == 'prioritized' else '--no-replay'}"
        ),
    )


def _replay_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Yields what prioritized replay, or an update without replay, cannot be combined with."""
    yield (
        "prioritized total_timesteps",
        c.prioritized and c.total_timesteps is None,
        "importance_exponent rises over total_timesteps, which is None: set total_timesteps, or "
        "leave out --prioritized",
    )
    yield (
        "replay prioritized",
        not c.replay and c.prioritized,
        "prioritized samples stored transitions, and without replay none are stored: "
        "leave out --no-replay or --prioritized",
    )
    yield (
        "replay train_frequency",
        not c.replay and c.train_frequency.denominator != 1,
        f"train_frequency is {c.train_frequency}: without replay an update learns from the "
        "transitions since the last update, so it must be a whole number, at least 1",
    )


def _device_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Yields conflicts between the device and the options of its learner."""
    yield (
        "device capture",
        c.device == "cpu" and is_graph(c.capture),
        f"capture is {c.capture}, which needs a CUDA device, and device is cpu: use --capture auto",
    )
    yield (
        "device store",
        c.device == "cpu" and c.store == "device",
        "store is device, which needs a CUDA device, and device is cpu: use --store auto",
    )
    yield (
        "device precision",
        c.device == "cpu" and c.precision in ("tf32", "bf16"),
        f"precision is {c.precision}, which is for CUDA devices and slower on the CPU, and device "
        "is cpu: use --precision auto",
    )
    launch = c.updates_per_launch or 1
    yield (
        "updates_per_launch",
        launch & (launch - 1) != 0,
        f"updates_per_launch is {launch}: it must be a power of two, so that few graphs are "
        f"captured. Use {1 << (launch.bit_length() - 1)} or "
        f"{1 << launch.bit_length()}",
    )


def _rank_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Yields what a run of several ranks cannot be combined with."""
    several = c.ranks > 1
    yield (
        "ranks actors",
        several and c.actors > 0,
        f"actors is {c.actors}, and {c.ranks} ranks step environments of their own: leave out "
        "--actors, or start one process",
    )
    for name in DIVIDED:
        value = getattr(c, name)
        parts = value is not None and several and value % c.ranks
        yield (
            f"ranks {name}",
            bool(parts),
            f"{name} is {value}, which {c.ranks} ranks cannot divide: use a multiple of {c.ranks}"
            if parts
            else "",
        )
    one = f"ranks is {c.ranks}, and"
    without = "Train with one process, or leave it out"
    yield (
        "ranks offline prefill from_run from_parts",
        several and (c.offline or starts_with_data(c)),
        f"{one} offline, prefill and the replay of from_run fill one replay buffer. {without}",
    )
    yield (
        "ranks replay",
        several and not c.replay,
        f"{one} without replay the transitions of an update have one order. {without}",
    )
    normalized = [n for n in ("normalize_observation", "normalize_reward") if getattr(c, n)]
    yield (
        "ranks normalize_observation normalize_reward",
        several and bool(normalized),
        f"{one} {' and '.join(normalized)} would keep statistics of one rank only. {without}",
    )
    yield (
        "ranks on_disk_error",
        several and c.on_disk_error == "continue",
        f"{one} on_disk_error continue could leave a checkpoint that one rank lacks: use stop",
    )
    yield (
        "ranks capture",
        several and is_graph(c.capture),
        f"{one} capture {c.capture} is not tested with the exchange of gradients: use eager",
    )
    yield (
        "ranks device",
        several and c.device not in ("auto", "cpu", "cuda"),
        f"{one} device {c.device} is that of one rank, which each choose their own: use cuda",
    )


def wants_cuda(c: Any) -> bool:
    """Returns whether an option needs a CUDA device."""
    return is_graph(c.capture) or c.precision in ("tf32", "bf16") or c.store == "device"


def is_graph(capture: str) -> bool:
    """Returns whether a way to capture records CUDA graphs."""
    return capture in ("graph", "compile-graph")


def is_compiled(capture: str) -> bool:
    """Returns whether a way to capture compiles with torch.compile."""
    return capture in ("compile", "compile-graph")


def chosen_backup(c: Any, backup: str | None = None) -> str:
    """Returns the name of the backup, with auto resolved by the options of techniques."""
    if (backup or c.backup) != "auto":
        return backup or c.backup
    if c.munchausen:
        return "munchausen"
    # Without a target network, selection and evaluation use the same network.
    return "double" if c.double and c.target_network else "max"


def has_plain_update(c: Any) -> bool:
    """Returns whether the fused learner has one kernel for the whole update.

    It has for MLPs if values are scalar, without noise, normalized observations and Munchausen.
    """
    beyond = c.torso != "mlp" or c.noisy or c.normalize_observation
    return c.value == "scalar" and chosen_backup(c) in ("max", "double") and not beyond


def chosen_sampler(c: Any, sampler: str | None = None) -> str:
    """Returns the name of the sampler, with auto resolved by replay and prioritized."""
    if (sampler or c.sampler) != "auto":
        return sampler or c.sampler
    return "newest" if not c.replay else "prioritized" if c.prioritized else "uniform"


def _has_distinct_atoms(c: Any) -> bool:
    """Returns whether the atoms are distinct in float32 and their spacing has an inverse."""
    try:
        apart = (c.v_max - c.v_min) / (c.num_atoms - 1)
        return apart > 2.0**-22 * max(abs(c.v_min), abs(c.v_max), 1e-25)
    except (
        OverflowError,
        ZeroDivisionError,
    ):  # beyond their own limits
        return False


def remarks(c: Any) -> list[str]:
    """Returns remarks on combinations that are valid, a line each."""
    lines = []
    if c.optimizer == "rmsprop" and c.adam_epsilon != 1e-8:
        lines.append(
            f"adam_epsilon is {c.adam_epsilon:g}, and rmsprop has its own: use "
            "--part-kwargs optimizer.epsilon=..."
        )
    if c.actor_num_envs is not None:
        lines.append(
            f"{c.actors} actors with {c.actor_num_envs} environments each: num_envs is {c.num_envs}"
        )
    if c.munchausen and c.double:
        lines.append("munchausen bootstraps from a soft policy: double has no effect")
    if not c.replay:
        lines.append(
            f"without replay an update learns from the newest {c.train_frequency} transitions, "
            "each once, in order: batch_size is train_frequency, and buffer_size follows from it"
        )
    if not c.target_network:
        lines.append(
            "without a target network the online network is bootstrapped from: "
            "target_network_frequency and tau have no effect"
            + (", nor has double" if c.double and not c.munchausen else "")
        )
    epsilon = c.ladder_epsilon if c.exploration == "ladder" else max(epsilons(c))
    if c.exploration_zeta is not None and epsilon == 0:
        lines.append(
            "epsilon is 0, so no random action is repeated: exploration_zeta has no effect"
        )
    if c.noisy and epsilon > 0:
        lines.append(f"noisy layers explore, and epsilon {epsilon:g} in addition")
    initial, final = epsilons(c)
    falls = c.exploration == "schedule" and c.exploration_decay is None and initial > final
    fallen = round(c.exploration_fraction * (c.total_timesteps or 0))
    if falls and fallen <= c.learning_starts and not starts_with_data(c):
        lines.append(
            f"epsilon has decayed to {final:g} by step {fallen:,}, before learning starts at "
            f"{c.learning_starts:,}: --exploration-fraction {c.exploration_fraction:g} is a "
            f"fraction of {c.total_timesteps:,} steps"
        )
    return lines


def ends_with_evaluation(c: Any) -> bool:
    """Returns whether the best weights are evaluated at the end of the run."""
    return c.eval_frequency > 0 if c.final_evaluation is None else c.final_evaluation


def evaluates(c: Any) -> bool:
    """Returns whether a run evaluates at all, and so needs evaluation environments."""
    return c.eval_frequency > 0 or ends_with_evaluation(c)


def chosen_env_batch(c: Any) -> int | None:
    """Returns env_batch_size. With double buffering, the default is one half of the environments.

    None: all, also for an odd number of environments, which has no halves.
    """
    halves = c.double_buffering and c.num_envs % 2 == 0
    return c.num_envs // 2 if halves and c.env_batch_size is None else c.env_batch_size


def sized(c: Any, stack: int) -> dict[str, int]:
    """Returns batch_size and buffer_size. Without replay they are derived from other options.

    A batch holds the transitions between two updates. The buffer holds the steps from which
    transitions still wait, each with three rows: a step, and the starts after a lost life and a
    lost game.

    Args:
        c: The options.
        stack: Rows that one observation spans.
    """
    if c.replay:
        return {"batch_size": c.batch_size, "buffer_size": c.buffer_size}
    batch = int(c.train_frequency)
    turns = -(-(batch + c.num_envs * c.n_steps) // (chosen_env_batch(c) or c.num_envs)) + 2
    return {"batch_size": batch, "buffer_size": c.num_envs * turns * (2 * stack + 1)}


def epsilons(c: Any) -> tuple[float, float]:
    """Returns initial and final epsilon. None means 1 and 0.05, or 0 with noisy layers."""
    final, initial = c.exploration_final_eps, c.exploration_initial_eps
    if final is None:
        final = 0.0 if c.noisy else 0.05
    if initial is None:
        initial = final if c.noisy else 1.0
    return initial, final
