"""Build: the only place where an option becomes an object."""

import copy
import importlib.util
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from gymnasium.vector import VectorEnv
from torch import nn

from fastdqn.acting import (
    EnvStream,
    SpaceFacts,
    find_spec,
    make_envs,
    resolve_vectorization,
)
from fastdqn.checks import network_weights, probe
from fastdqn.config import Config
from fastdqn.engine.judge import Judge
from fastdqn.engine.local import Cadence, Run
from fastdqn.learning.adam import FusedAdam, PlainAdam
from fastdqn.learning.backup import DoubleBackup, MaxBackup
from fastdqn.learning.capture import compiled, eager
from fastdqn.learning.flat import FlatParameters
from fastdqn.learning.learner import Learner
from fastdqn.learning.networks import MLP, DuelingHead, PlainHead, QNetwork, count_features
from fastdqn.learning.policy import Policy
from fastdqn.learning.staging import Staging
from fastdqn.learning.target import HardCopy, PolyakAverage
from fastdqn.learning.value import ScalarValue, huber, squared_error
from fastdqn.record.console import Display
from fastdqn.record.folder import create_folder, default_run_dir
from fastdqn.record.metrics import MetricsSink, TensorBoardEvents
from fastdqn.record.recorder import RunRecorder
from fastdqn.record.weights import assign_weights, load_weights, save_weights
from fastdqn.replay import Replay, Ring, RowStore, UniformSampler, rows_per_lane
from fastdqn.rng import derive
from fastdqn.schedules import Budget, EpisodicEpsilon, LinearEpsilon
from fastdqn.seeds import CONFIRM, EVAL, EXPLORE, SAMPLE, TRAIN, WEIGHTS, env_seed
from fastdqn.session import Evaluations, Session
from fastdqn.timing import Laps, process_age, usable_cores

# Weights in a network that a GPU updates faster than a CPU core. Ours, untuned.
_LARGE_NETWORK = 1_000_000
# Lanes of an evaluation at most: beyond it a round's cost grows with its lanes. Ours, untuned.
EVAL_LANES = 128
# Steps of an evaluation episode where neither the environment nor the user sets a limit:
# 30 minutes of Atari at 15 decisions a second, as published scores have it.
EVAL_MAX_STEPS = 27_000


def resolve(config: Config, weights: int, limit: int | None, given: bool) -> Config:
    """Give every None and auto its value: a fixed function of config, network and machine.

    weights  numbers in the network
    limit  steps of the environment's own time limit, if it has one
    given  the environments were handed in, so nothing says how they are stepped
    """
    large = weights >= _LARGE_NETWORK
    vectorization = config.vectorization
    if not given:
        vectorization = resolve_vectorization(config.env_id, vectorization)
    device = config.device
    if device == "auto":
        device = "cuda" if large and torch.cuda.is_available() else "cpu"
    threads = usable_cores() if large and device == "cpu" else 1
    tensorboard = importlib.util.find_spec("tensorboard") is not None
    return config.replace(
        vectorization=vectorization,
        device=device,
        threads=config.threads or threads,
        tensorboard=tensorboard if config.tensorboard is None else config.tensorboard,
        run_dir=config.run_dir or default_run_dir(config),
        eval_max_steps=config.eval_max_steps or limit or EVAL_MAX_STEPS,
        log_frequency=config.log_frequency or max(1, (config.total_timesteps or 100_000) // 200),
    )


def preview(config: Config) -> tuple[Config, SpaceFacts]:
    """The resolved config of a run, and its spaces, without starting it."""
    facts = probe(config)
    weights, limit = network_weights(config, facts), find_spec(config.env_id).max_episode_steps
    return resolve(config, weights, limit, given=False), facts


def describe_network(config: Config, facts: SpaceFacts, torso: nn.Module | None = None) -> dict:
    """All that makes a network again, as plain values: it travels with the weights."""
    return {
        "obs_shape": list(facts.obs_shape),
        "obs_dtype": str(facts.obs_dtype),
        "obs_scale": facts.obs_scale,
        "num_actions": facts.num_actions,
        "hidden_sizes": list(config.hidden_sizes),
        "dueling": config.dueling,
        "torso": "mlp" if torso is None else "custom",
    }


def make_network(description: dict, torso: nn.Module | None = None) -> QNetwork:
    """Build the network of a description. Raises ValueError where its torso is missing."""
    shape = tuple(description["obs_shape"])
    if torso is None:
        if description["torso"] != "mlp":
            raise ValueError(
                "these weights belong to a torso of your own: fastdqn.load_policy(run, torso=...)"
            )
        torso = MLP(math.prod(shape), tuple(description["hidden_sizes"]))
    else:
        torso = copy.deepcopy(torso)  # its parameters become views of the flat tensor
    head = DuelingHead if description["dueling"] else PlainHead
    return QNetwork(
        torso,
        head(count_features(torso, shape), description["num_actions"]),
        description["obs_scale"],
    )


def load_policy(path: Path, torso: nn.Module | None = None) -> tuple[Policy, dict]:
    """A greedy CPU policy from a weights file, and the description of its network.

    Raises WeightsError, one line, where the file cannot be used; ValueError where the torso does
    not fit.
    """
    arrays, description = load_weights(path)
    if torso is None and description["torso"] == "mlp":
        # A few bytes may describe a network of any size: what the file holds must match first.
        with torch.device("meta"):
            assign_weights(path, make_network(description), arrays)
    network = make_network(description, torso).eval().requires_grad_(False)
    assign_weights(path, network, arrays)
    value = ScalarValue(squared_error)
    return Policy(network, value, torch.device("cpu"), description["num_actions"]), description


def build(
    config: Config,
    make_display: Callable[[Config], Display],
    envs: VectorEnv | None = None,
    eval_envs: VectorEnv | None = None,
    torso: nn.Module | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Session:
    """Turn options into a run that is ready to start; the options must have passed check().

    make_display  resolved Config to Display
    envs, eval_envs  ready environments in place of env_id; without eval_envs a given envs is
                     never evaluated
    clock   of the loop's phases; one that waits for the device first bills its work exactly
    Raises ConfigError where the run folder cannot be had; ValueError where torso does not fit.
    """
    startup = Laps()
    with ExitStack() as owned:  # what is made here is closed here if a later part fails
        stream, eval_stream, limit = _make_streams(config, envs, eval_envs, owned)
        weights = network_weights(config, stream.facts)
        if torso is not None:
            weights = sum(parameter.numel() for parameter in torso.parameters())
        config = resolve(config, weights, limit, given=envs is not None)
        assert config.threads is not None
        owned.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(config.threads)
        online, description = _make_network(config, stream.facts, torso)
        learner = _make_learner(config, online)
        startup.lap("build")
        replay = _make_replay(config, stream.facts)
        staging = Staging(replay.new_batch(config.batch_size), online.weights.device)
        policy = _make_policy(config, online, learner, stream.facts)
        startup.lap("kernels")
        learner.prepare(staging.device)
        policy(stream.obs)
        recorder = _make_recorder(config, make_display, online, description)
        owned.callback(recorder.close)
        evaluations = _make_evaluations(config, policy, eval_stream)
        judge = _make_judge(config, evaluations, recorder)
        run = Run(
            stream, policy, replay, staging, learner, _make_epsilon(config), _make_budget(config),
            _make_cadence(config), recorder, judge, env_seed(config.seed, TRAIN), laps=Laps(clock),
        )  # fmt: skip
        startup.lap("build")
        return Session(config, run, recorder, judge, evaluations, startup, owned.pop_all())


def _make_streams(
    config: Config, envs: VectorEnv | None, eval_envs: VectorEnv | None, owned: ExitStack
) -> tuple[EnvStream, EnvStream | None, int | None]:
    """The training stream, the evaluation stream and the environment's time limit, if any."""
    if envs is not None:
        limit = getattr(envs.spec, "max_episode_steps", None)
        return EnvStream(envs), EnvStream(eval_envs) if eval_envs is not None else None, limit
    limit = find_spec(config.env_id).max_episode_steps
    envs = make_envs(config.env_id, config.num_envs, config.vectorization)
    owned.callback(envs.close)
    if eval_envs is None:
        # A process for each lane is dear: evaluation takes no more than training has.
        most = config.num_envs if config.vectorization == "async" else EVAL_LANES
        lanes = min(config.eval_episodes, most)
        eval_envs = make_envs(config.env_id, lanes, config.vectorization)
        owned.callback(eval_envs.close)
    return EnvStream(envs), EnvStream(eval_envs), limit


def _make_network(
    config: Config, facts: SpaceFacts, torso: nn.Module | None
) -> tuple[FlatParameters, dict]:
    description = describe_network(config, facts, torso)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(config.seed, WEIGHTS))
        network = make_network(description, torso)
    return FlatParameters(network, torch.device(config.device)), description


def _make_policy(
    config: Config, online: FlatParameters, learner: Learner, facts: SpaceFacts
) -> Policy:
    return Policy(
        online.eval_alias(), learner.value, online.weights.device, facts.num_actions,
        seed=derive(config.seed, EXPLORE),
    )  # fmt: skip


def _make_replay(config: Config, facts: SpaceFacts) -> Replay:
    rows = rows_per_lane(config.buffer_size, config.num_envs, config.n_steps)
    return Replay(
        Ring(config.num_envs, rows),
        RowStore(config.num_envs, rows, facts.obs_shape, facts.obs_dtype),
        UniformSampler(derive(config.seed, SAMPLE)),
        n_steps=config.n_steps,
        gamma=config.gamma,
    )


def _make_learner(config: Config, online: FlatParameters) -> Learner:
    # Both frequencies count steps; the target counts updates, so only their ratio reaches it.
    every = config.target_network_frequency / config.train_frequency
    optimizer, capture = {
        "eager": (FusedAdam, eager),
        "compile": (PlainAdam, compiled),
    }[config.capture]
    return Learner(
        online,
        ScalarValue(huber if config.loss == "huber" else squared_error),
        DoubleBackup() if config.double else MaxBackup(),
        optimizer(online.weights, online.gradient, config.learning_rate),
        HardCopy(every) if config.tau == 1.0 else PolyakAverage(every, config.tau),
        config.max_grad_norm,
        capture,
    )


def _make_epsilon(config: Config):
    first, last = config.exploration_initial_eps, config.exploration_final_eps
    if config.exploration_decay is not None:
        return EpisodicEpsilon(first, last, config.exploration_decay)
    assert config.total_timesteps is not None
    return LinearEpsilon(first, last, round(config.exploration_fraction * config.total_timesteps))


def _make_cadence(config: Config) -> Cadence:
    assert config.log_frequency is not None
    return Cadence(
        config.learning_starts, config.train_frequency, config.eval_frequency, config.log_frequency
    )


def _make_budget(config: Config) -> Budget:
    return Budget(config.total_timesteps, config.total_episodes)


def _make_recorder(
    config: Config,
    make_display: Callable[[Config], Display],
    online: FlatParameters,
    description: dict,
) -> RunRecorder:
    folder = create_folder(config, _device_name(config.device))
    sinks: list[MetricsSink] = [TensorBoardEvents(folder)] if config.tensorboard else []
    return RunRecorder(
        folder,
        make_display(config),  # last: a live panel holds the terminal until it is closed
        sinks,
        lambda path: save_weights(path, online.named_tensors(), description),
        _make_budget(config).fraction,
    )


def _make_evaluations(
    config: Config, policy: Policy, stream: EnvStream | None
) -> Evaluations | None:
    if stream is None:
        return None
    assert config.eval_max_steps is not None
    return Evaluations(policy, stream, config.eval_episodes, config.eval_max_steps, config.seed)


def _make_judge(
    config: Config, evaluations: Evaluations | None, recorder: RunRecorder
) -> Judge | None:
    if evaluations is None or config.eval_frequency == 0:
        return None
    purposes = {"eval": EVAL, "confirm": CONFIRM}
    return Judge(
        lambda kind, count: evaluations(purposes[kind], count),
        recorder,
        config.stop_at_return,
        process_age,
    )


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
