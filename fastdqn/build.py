"""Build: the only place where an option becomes an object."""

import copy
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import nn

from fastdqn.acting import (
    EnvFacts,
    EnvStream,
    Factory,
    ObsStatistics,
    ReturnStatistics,
    limit_of,
)
from fastdqn.checks import network_weights, recipe
from fastdqn.config import Config
from fastdqn.engine.judge import Judge
from fastdqn.engine.local import Cadence, Hooks, Run
from fastdqn.engine.normalize import Normalizer
from fastdqn.learning.adam import FusedAdam, PlainAdam
from fastdqn.learning.backup import DoubleBackup, MaxBackup
from fastdqn.learning.capture import compiled, eager
from fastdqn.learning.flat import FlatParameters
from fastdqn.learning.learner import Learner
from fastdqn.learning.networks import (
    MLP,
    DuelingHead,
    PlainHead,
    QNetwork,
    Statistics,
    count_features,
)
from fastdqn.learning.policy import Policy
from fastdqn.learning.staging import Staging
from fastdqn.learning.target import HardCopy, PolyakAverage
from fastdqn.learning.value import ScalarValue, huber, squared_error
from fastdqn.record.console import Display
from fastdqn.record.folder import create_folder
from fastdqn.record.metrics import MetricsSink, TensorBoardEvents
from fastdqn.record.recorder import RunRecorder
from fastdqn.record.weights import assign_weights, load_weights, save_weights
from fastdqn.replay import Replay, Ring, RowStore, UniformSampler, rows_per_lane
from fastdqn.resolve import resolve
from fastdqn.rng import derive
from fastdqn.schedules import Budget, EpisodicEpsilon, LadderEpsilon, LinearEpsilon
from fastdqn.seeds import CONFIRM, EVAL, EXPLORE, SAMPLE, TRAIN, WEIGHTS, env_seed
from fastdqn.session import Evaluations, Session
from fastdqn.timing import Laps, process_age

# Lanes of an evaluation at most: beyond it a round's cost grows with its lanes. Ours, untuned.
EVAL_LANES = 128


def describe_network(config: Config, facts: EnvFacts, torso: nn.Module | None = None) -> dict:
    """All that makes a network again, as plain values: it travels with the weights."""
    return {
        "obs_shape": list(facts.obs_shape),
        "obs_dtype": str(facts.obs_dtype),
        "obs_scale": facts.obs_scale,
        "num_actions": facts.num_actions,
        "hidden_sizes": list(config.hidden_sizes),
        "dueling": config.dueling,
        "torso": "mlp" if torso is None else "custom",
        "normalize_observation": config.normalize_observation,
        "normalize_reward": config.normalize_reward,
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
    of_obs, of_returns = description["normalize_observation"], description["normalize_reward"]
    return QNetwork(
        torso,
        head(count_features(torso, shape), description["num_actions"]),
        description["obs_scale"],
        Statistics(shape, of_obs, of_returns) if of_obs or of_returns else None,
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
    envs: VectorEnv | Factory | None = None,
    eval_envs: VectorEnv | None = None,
    torso: nn.Module | None = None,
    hooks: Hooks | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Session:
    """Turn options into a run that is ready to start; the options must have passed check().

    make_display  resolved Config to Display
    envs, eval_envs  ready environments in place of env_id, or a factory of lanes; without
                     eval_envs ready envs are never evaluated
    hooks   calls of the user's own
    clock   of the loop's phases; one that waits for the device first bills its work exactly
    Raises ConfigError where the run folder cannot be had; ValueError where torso does not fit;
    EnvError where a first reset fails.
    """
    startup, hooks = Laps(), hooks or Hooks()
    with ExitStack() as owned:  # what is made here is closed here if a later part fails
        stream, eval_stream, limit, how = _make_streams(config, envs, eval_envs, owned)
        weights = network_weights(config, stream.facts)
        if torso is not None:
            weights = sum(parameter.numel() for parameter in torso.parameters())
        config = resolve(config, weights, limit, how)
        assert config.threads is not None
        owned.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(config.threads)
        online, description = _make_network(config, stream.facts, torso)
        learner = _make_learner(config, online)
        # The first reset tells whether there are masks, which the replay keeps.
        start = stream.start(env_seed(config.seed, TRAIN))
        startup.lap("build")
        replay = _make_replay(config, stream)
        staging = Staging(replay.new_batch(config.batch_size), online.weights.device)
        policy = _make_policy(config, online, learner, stream.facts)
        startup.lap("kernels")
        learner.prepare(staging.device)
        policy(stream.obs, stream.mask)
        recorder = _make_recorder(config, make_display, online, description, hooks)
        owned.callback(recorder.close)
        evaluations = _make_evaluations(config, policy, eval_stream)
        judge = _make_judge(config, evaluations, recorder)
        run = Run(
            stream, policy, replay, staging, learner, _make_epsilon(config), _make_budget(config),
            _make_cadence(config), recorder, judge, start,
            _make_normalizer(config, online, replay, stream), hooks, laps=Laps(clock),
        )  # fmt: skip
        startup.lap("build")
        return Session(config, run, recorder, judge, evaluations, startup, owned.pop_all())


def _make_streams(
    config: Config,
    envs: VectorEnv | Factory | None,
    eval_envs: VectorEnv | None,
    owned: ExitStack,
) -> tuple[EnvStream, EnvStream | None, int | None, str]:
    """The training stream, the evaluation stream, the environment's time limit, if any, and how
    lanes are stepped."""
    evaluated = EnvStream(eval_envs) if eval_envs is not None else None
    if isinstance(envs, VectorEnv):
        stream = EnvStream(envs, config.env_batch_size)
        return stream, evaluated, limit_of(envs), config.vectorization
    how = recipe(config, envs)
    made = how.make(
        config.num_envs,
        seed=env_seed(config.seed, TRAIN),
        env_batch_size=config.env_batch_size,
    )
    owned.callback(made.close)
    stream = EnvStream(made, config.env_batch_size)
    owned.callback(stream.close)
    if evaluated is None:
        # A process for each lane is dear: evaluation takes no more than training has.
        most = config.num_envs if config.vectorization == "async" else EVAL_LANES
        lanes = min(config.eval_episodes, most)
        evaluated = EnvStream(how.make(lanes, seed=env_seed(config.seed, EVAL)))
        owned.callback(evaluated.close)
    return stream, evaluated, how.max_episode_steps() or limit_of(made), how.resolve()


def _make_network(
    config: Config, facts: EnvFacts, torso: nn.Module | None
) -> tuple[FlatParameters, dict]:
    description = describe_network(config, facts, torso)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(config.seed, WEIGHTS))
        network = make_network(description, torso)
    return FlatParameters(network, torch.device(config.device)), description


def _make_policy(
    config: Config, online: FlatParameters, learner: Learner, facts: EnvFacts
) -> Policy:
    return Policy(
        online.eval_alias(), learner.value, online.weights.device, facts.num_actions,
        seed=derive(config.seed, EXPLORE),
    )  # fmt: skip


def _make_replay(config: Config, stream: EnvStream) -> Replay:
    n, facts = config.num_envs, stream.facts
    rows = rows_per_lane(config.buffer_size, n, config.n_steps)
    return Replay(
        Ring(n, rows),
        RowStore(n, rows, facts.obs_shape, facts.obs_dtype),
        UniformSampler(derive(config.seed, SAMPLE)),
        masks=None if stream.mask is None else RowStore(n, rows, (facts.num_actions,), np.bool_),
        n_steps=config.n_steps,
        gamma=config.gamma,
    )


def _make_normalizer(
    config: Config, online: FlatParameters, replay: Replay, stream: EnvStream
) -> Normalizer | None:
    if not (config.normalize_observation or config.normalize_reward):
        return None
    assert isinstance(online.module, QNetwork)
    assert online.module.statistics is not None
    return Normalizer(
        online.module.statistics,
        replay,
        ObsStatistics(stream.facts.obs_shape) if config.normalize_observation else None,
        ReturnStatistics(config.num_envs, config.gamma) if config.normalize_reward else None,
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
    if config.exploration == "ladder":
        return LadderEpsilon(config.ladder_epsilon, config.ladder_alpha, config.num_envs)
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
    hooks: Hooks,
) -> RunRecorder:
    folder = create_folder(config, _device_name(config.device))
    sinks: list[MetricsSink] = [TensorBoardEvents(folder)] if config.tensorboard else []
    return RunRecorder(
        folder,
        make_display(config),  # last: a live panel holds the terminal until it is closed
        sinks,
        lambda path: save_weights(path, online.named_tensors(), description),
        _make_budget(config).fraction,
        hooks.on_evaluation,
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
