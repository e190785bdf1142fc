"""Streams: the environments of a run, those it learns from and those it is evaluated on."""

from contextlib import ExitStack
from typing import Any, NamedTuple

from gymnasium.vector import VectorEnv

from fastdqn.builders.preflight import recipe
from fastdqn.config.conflicts import evaluates
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import EnvStream, Factory, Making, close_quietly, limit_of
from fastdqn.envs.watchdog import Watchdog
from fastdqn.seeding import EVAL, env_seed

# Lanes of an evaluation at most: beyond it a round's cost grows with its lanes. Ours, untuned.
EVAL_LANES = 128


class Streams(NamedTuple):
    """limit  the environment's of time, if it has one; how  lanes are stepped
    watchdog  watches over both streams and their making, if anything does."""

    training: EnvStream
    evaluation: EnvStream | None
    limit: int | None
    how: str
    watchdog: Watchdog | None


def make_streams(
    config: Config,
    envs: VectorEnv | Factory | None,
    eval_envs: VectorEnv | None,
    seed: int,
    owned: ExitStack,
) -> Streams:
    """Make the environments of a run, as far as they are not given."""
    watchdog = None
    if config.max_step_seconds is not None:
        # First, and so the last to go: closing is a call as well.
        watchdog = owned.enter_context(Watchdog(config.max_step_seconds))
    making = Making(config.env_id if isinstance(envs, VectorEnv) else str(recipe(config, envs)))
    if watchdog is not None:
        watchdog.watch(making)
    with making:
        stream, evaluated, limit, how = _make_streams(config, envs, eval_envs, seed, owned)
    for each in (stream, evaluated):
        if watchdog is not None and each is not None:
            watchdog.watch(each.asking)
    return Streams(stream, evaluated, limit, how, watchdog)


def _make_streams(
    config: Config,
    envs: VectorEnv | Factory | None,
    eval_envs: VectorEnv | None,
    seed: int,
    owned: ExitStack,
) -> tuple[EnvStream, EnvStream | None, int | None, str]:
    evaluated = EnvStream(eval_envs) if eval_envs is not None else None
    if isinstance(envs, VectorEnv):
        stream = EnvStream(envs, config.env_batch_size)
        owned.callback(stream.settle)
        return stream, evaluated, limit_of(envs), config.vectorization
    how = recipe(config, envs)
    try:  # one environment could be made, which does not mean that all of them can
        made = how.make(config.num_envs, seed=seed, env_batch_size=config.env_batch_size)
        stream = _stream_over(made, owned, config.env_batch_size, config.restart_envs)
        if evaluated is None and evaluates(config):
            # A process for each lane is dear: evaluation takes no more than training has.
            most = config.num_envs if config.vectorization == "async" else EVAL_LANES
            lanes = min(config.eval_episodes, most)
            made_to_score = how.for_scores().make(lanes, seed=env_seed(config.seed, EVAL))
            evaluated = _stream_over(made_to_score, owned)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    return stream, evaluated, limit_of(made, how.max_episode_steps()), how.resolve()


def _stream_over(envs: VectorEnv, owned: ExitStack, *options: Any) -> EnvStream:
    """A stream over environments that were made here, which are closed with it."""
    try:
        stream = EnvStream(envs, *options)
    except BaseException:
        close_quietly(envs)
        raise
    owned.callback(stream.close)
    return stream
