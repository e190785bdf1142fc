"""Auto options: resolves None and auto from options, network and machine."""

import importlib.util
from typing import Any, NamedTuple

from fastdqn.builders import torso_kinds
from fastdqn.builders.devices import (
    LARGE_NETWORK,
    choose_capture,
    choose_device,
    choose_store,
    launched,
    most_launched,
)
from fastdqn.builders.memory_estimate import device_store_bytes, network_bytes
from fastdqn.builders.network_size import NetworkSize, measure_network, obs_size
from fastdqn.builders.parts import NO_PARTS, UserParts, find_part, make_part
from fastdqn.config import atari_protocols
from fastdqn.config.conflicts import (
    chosen_backup,
    chosen_env_batch,
    chosen_sampler,
    ends_with_evaluation,
    epsilons,
    is_graph,
    sized,
)
from fastdqn.config.derived_facts import keeps_frames
from fastdqn.config.limits import beyond_fused
from fastdqn.config.option import options_of
from fastdqn.config.schema import Config, ConfigError, ResolvedConfig
from fastdqn.envs import EnvFacts
from fastdqn.files.run_folder import default_run_dir
from fastdqn.kernels.jit import COMPILES
from fastdqn.learning.capturable import host_read
from fastdqn.learning.networks import initialized
from fastdqn.system.cpu_limits import thread_limit, usable_cores

# Limit of an evaluation episode in steps if there is no other: 30 minutes of Atari at 15 decisions
# per second, as in published scores.
EVAL_MAX_STEPS = 27_000
# Transitions of an actor's block, and most steps of it. Ours, untuned.
_BLOCK, _MOST_STEPS = 512, 64


class Resolution(NamedTuple):
    """Resolved options, lines about the choices, and the size of the network."""

    config: ResolvedConfig
    notes: list[str]
    size: NetworkSize


def resolve(
    config: Config,
    facts: EnvFacts,
    vectorization: str,
    own: UserParts = NO_PARTS,
    size: NetworkSize | None = None,
) -> Resolution:
    """Resolves every None and auto.

    Args:
        config: The options.
        facts: Of the environment.
        vectorization: As EnvRecipe resolves it. For a VectorEnv from Python, what is known.
        own: Objects from Python.
        size: Size of the network. None: it is measured.

    Raises:
        ConfigError: A part cannot be made, or capture is graph and the torso cannot be captured.
        ValueError: The torso does not fit.
    """
    frames = keeps_frames(config, facts.stack)
    config = config.replace(
        env_batch_size=chosen_env_batch(config),
        **torso_kinds.settle(config, facts),
        **sized(config, facts.stack if frames else 1),
        backup=chosen_backup(config),
        sampler=chosen_sampler(config),
    )
    size = size or measure_network(config, facts, own)
    _require_bonus(config, own)
    device, why = choose_device(config, size.weights)
    numbers = obs_size(facts)
    store = choose_store(
        config, device, frames, numbers,
        lambda: device_store_bytes(config, facts) + network_bytes(config, size),
    )  # fmt: skip
    most = most_launched(store, numbers)
    read = _host_read(config, facts, own, device)
    learner, reason = choose_learner(config, size.weights, own.torso is not None, device)
    capture, of_capture = choose_capture(config, device, read)
    flattened = torso_kinds.remark(config.torso, facts) if own.torso is None else None
    notes = [f"learner {learner}: {reason}", *filter(None, [why, flattened])]
    if learner == "fused" and (config.threads or 1) > 1:
        notes.append(f"threads 1: the fused learner has one thread, not {config.threads}")
    if device != "cpu":
        notes.append(f"capture {capture}: {of_capture}")
    wants_priorities = getattr(find_part("sampler", config.sampler, own), "wants_priorities", False)
    initial, final = epsilons(config)
    steps = config.total_timesteps or 100_000
    has_tensorboard = importlib.util.find_spec("tensorboard") is not None
    changes = {
        **launched(config, device, capture, wants_priorities, most),
        **_atari(config, vectorization),
        "exploration_initial_eps": initial,
        "exploration_final_eps": final,
        "vectorization": vectorization,
        "final_evaluation": ends_with_evaluation(config),
        "store": store,
        "actor_block_steps": _block_steps(config),
        "learner": learner,
        "threads": _threads(config, device, learner, size.weights),
        "tensorboard": has_tensorboard if config.tensorboard is None else config.tensorboard,
        "run_dir": config.run_dir or default_run_dir(config),
        "eval_max_steps": config.eval_max_steps or facts.max_episode_steps or EVAL_MAX_STEPS,
        "log_frequency": config.log_frequency or max(1, steps // 200),
    }
    return Resolution(ResolvedConfig(**vars(config) | changes), notes, size)


def _block_steps(config: Config) -> int:
    """Returns the steps of an actor's block."""
    each = config.num_envs // max(1, config.actors)
    return config.actor_block_steps or max(1, min(_MOST_STEPS, _BLOCK // each))


def _atari(config: Config, vectorization: str) -> dict[str, Any]:
    """Returns the Atari protocol and its settings, resolved."""
    if not (atari_protocols.is_atari(config.env_id) and vectorization == "native"):
        return {"atari_protocol": "none"}
    return {
        "atari_protocol": atari_protocols.resolved(config.atari_protocol),
        "env_kwargs": atari_protocols.settings(config.atari_protocol, config.env_kwargs),
    }


def _require_bonus(config: Config, own: UserParts) -> None:
    """Raises ConfigError if munchausen needs a bonus that the value cannot represent."""
    if config.backup != "munchausen":
        return
    value = make_part("value", config, own)
    if not value.takes_bonus:
        raise ConfigError(
            [f"munchausen adds a bonus to the bootstrap value, which value {config.value} cannot "
             "represent (takes_bonus is False): leave out --munchausen"]
        )  # fmt: skip


def _host_read(config: Config, facts: EnvFacts, own: UserParts, device: str) -> str | None:
    """Returns the operation by which a torso of the user's reads from the host, or None."""
    if device == "cpu" or own.torso is None:
        return None
    read = host_read(initialized(own.torso, facts.obs_shape), facts.obs_shape)
    if read is not None and is_graph(config.capture):
        raise ConfigError([
            f"capture is {config.capture}, and the torso reads from the host ({read}): use "
            "--capture auto"
        ])  # fmt: skip
    return read


def _threads(config: Config, device: str, learner: str, weights: int) -> int:
    """Returns the number of threads of torch; the fused learner has one."""
    if learner == "fused":
        return 1
    cores = min(usable_cores(), thread_limit() or usable_cores())
    return config.threads or (cores if weights >= LARGE_NETWORK and device == "cpu" else 1)


def choose_learner(
    config: Config, weights: int, own_torso: bool = False, device: str | None = None
) -> tuple[str, str]:
    """Returns (fused or torch, the reason).

    Args:
        config: The options.
        weights: Number of weights of the network.
        own_torso: Whether the torso was passed from Python.
        device: The resolved device. None: that of the options.
    """
    if config.learner != "auto":
        return config.learner, "as configured"
    chosen = vars(config) | {"device": device or config.device}
    reasons = [f"it does not support {each}" for each in beyond_fused(chosen, options_of(Config))]
    if own_torso:
        reasons.append("the torso is not one of fastdqn's")
    if weights >= LARGE_NETWORK:
        reasons.append(f"the network is large, {weights:,} weights")
    if not COMPILES:
        reasons.append("Numba is disabled")
    if reasons:
        return "torch", f"not fused: {', '.join(reasons)}"
    return "fused", "a small network on the CPU is updated by compiled kernels"
