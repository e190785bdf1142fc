"""Auto options: resolves None and auto from options, network and machine."""

import importlib.util

from fastdqn.builders.devices import LARGE_NETWORK, choose_capture, choose_device, launched
from fastdqn.builders.memory_estimate import keeps_frames, network_weights
from fastdqn.builders.preflight import look_at, recipe
from fastdqn.builders.torso_kinds import settle
from fastdqn.config import atari_protocols
from fastdqn.config.conflicts import beyond_fused, ends_with_evaluation, epsilons, sized
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.files.run_folder import default_run_dir
from fastdqn.kernels.jit import COMPILES
from fastdqn.system.cpu_limits import thread_limit, usable_cores
from fastdqn.system.idle_thread import HAS_SPARE

# Batch size from which a second thread pays off, see benchmarks/README.md.
_LARGE_BATCH = 128
# Limit of an evaluation episode in steps if there is no other: 30 minutes of Atari at 15 decisions
# per second, as in published scores.
EVAL_MAX_STEPS = 27_000


def resolve(
    config: Config,
    weights: int,
    limit: int | None,
    vectorization: str,
    own_torso: bool = False,
    stack: int = 1,
    host_read: str | None = None,
) -> Config:
    """Returns the options with every None and auto resolved.

    Args:
        config: The options.
        weights: Number of weights of the network.
        limit: The environment's own time limit in steps, or None.
        vectorization: As EnvRecipe resolves it. For a VectorEnv from Python, what is known.
        own_torso: Whether the torso was passed from Python.
        stack: Frames that the environment declares in an observation.
        host_read: The operation of the torso that reads from the host, or None.
    """
    frames = keeps_frames(config, stack)
    config = sized(config, stack if frames else 1)
    large = weights >= LARGE_NETWORK
    device = choose_device(config, weights)[0]
    learner = choose_learner(config.replace(device=device), weights, own_torso)[0]
    tensorboard = importlib.util.find_spec("tensorboard") is not None
    initial, final = epsilons(config)
    protocol, settings = "none", config.env_kwargs
    if atari_protocols.is_atari(config.env_id) and vectorization == "native":
        protocol = atari_protocols.resolved(config.atari_protocol)
        settings = atari_protocols.settings(protocol, config.env_kwargs)
    capture = choose_capture(config.replace(device=device), host_read)[0]
    return launched(config, device, capture).replace(
        atari_protocol=protocol,
        env_kwargs=settings,
        exploration_initial_eps=initial,
        exploration_final_eps=final,
        vectorization=vectorization,
        final_evaluation=ends_with_evaluation(config),
        store="frames" if frames else "rows",
        learner=learner,
        threads=_threads(config.replace(device=device, learner=learner), large, vectorization),
        tensorboard=tensorboard if config.tensorboard is None else config.tensorboard,
        run_dir=config.run_dir or default_run_dir(config),
        eval_max_steps=config.eval_max_steps or limit or EVAL_MAX_STEPS,
        log_frequency=config.log_frequency or max(1, (config.total_timesteps or 100_000) // 200),
    )


def threads_of_torch(config: Config) -> int:
    """Returns the number of torch threads of a run with resolved options."""
    assert config.threads is not None
    return 1 if config.learner == "fused" else config.threads


def _threads(config: Config, large: bool, vectorization: str) -> int:
    """Returns threads of torch or of the fused learner. device and learner must be resolved."""
    cores = min(usable_cores(), thread_limit() or usable_cores())
    if config.learner != "fused":
        every = cores if large and config.device == "cpu" else 1
        return config.threads or every
    if config.threads is not None:
        return min(config.threads, 2 if HAS_SPARE else 1)
    # Environments in processes or threads use the other core. A target network that changes with
    # each update would move between the caches of both cores.
    free = cores > 1 and HAS_SPARE and vectorization in ("native", "sync")
    rests = config.target_network and config.tau == 1.0
    pays = config.batch_size >= _LARGE_BATCH and rests
    return 2 if free and pays else 1


def choose_learner(config: Config, weights: int, own_torso: bool = False) -> tuple[str, str]:
    """Returns (fused or torch, the reason). The device must be resolved."""
    if config.learner != "auto":
        return config.learner, "as configured"
    reasons = [f"it does not support {each}" for each in beyond_fused(config)]
    if own_torso:
        reasons.append("the torso is not the built-in MLP")
    if weights >= LARGE_NETWORK:
        reasons.append(f"the network is large, {weights:,} weights")
    if not COMPILES:
        reasons.append("Numba is disabled")
    if reasons:
        return "torch", f"not fused: {', '.join(reasons)}"
    return "fused", "a small MLP on the CPU is updated by one kernel"


def preview(config: Config) -> tuple[Config, EnvFacts]:
    """Returns the resolved options and the environment's facts without starting a run."""
    how = recipe(config)
    facts = look_at(config)
    config = settle(config, facts)
    weights = network_weights(config, facts)
    limit, lanes = facts.max_episode_steps, how.resolve()
    return resolve(config, weights, limit, lanes, stack=facts.stack), facts
