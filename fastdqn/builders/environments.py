"""Builds the training and evaluation environments of a run."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from gymnasium.vector import VectorEnv

from fastdqn.builders.preflight import recipe
from fastdqn.config.conflicts import evaluates
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import (
    EnvCreation,
    EnvFacts,
    EnvRecipe,
    EnvStream,
    Factory,
    OfflineStream,
    close_quietly,
)
from fastdqn.envs.watchdog import Watchdog
from fastdqn.seeding import EVAL, env_seed

# Most evaluation environments of one compiled call, and of a loop in Python. All step until the
# longest episode of a round has ended, which costs a loop more with each of them. Not tuned.
_MOST_COMPILED, _MOST_LOOPED = 128, 16


class Streams(NamedTuple):
    """The environments of a run.

    Attributes:
        training, evaluation: The streams. Training is an OfflineStream in an offline run.
        watchdog: Ends hanging calls of both streams, or None without a timeout.
    """

    training: EnvStream | Any
    evaluation: EnvStream | None
    watchdog: Watchdog | None


def make_streams(
    config: Config,
    envs: VectorEnv | Factory | None,
    eval_envs: VectorEnv | None,
    seed: int,
    owned: ExitStack,
    facts: EnvFacts,
    remote: Callable[[], Any] | None = None,
) -> Streams:
    """Makes the environments of a run that were not passed from Python. Raises ConfigError.

    remote: makes the stream of actors, in the place of training environments.
    """
    watchdog = None
    if config.max_step_seconds is not None:
        # Entered first and so closed last, since close() may hang too.
        watchdog = owned.enter_context(Watchdog(config.max_step_seconds))
    actors = None if remote is None else remote()  # starts Ray, which no limit of a step counts
    creation = EnvCreation(
        config.env_id if isinstance(envs, VectorEnv) else str(recipe(config, envs))
    )
    if watchdog is not None:
        watchdog.watch(creation)
    with creation:
        stream, evaluated = _make_streams(config, envs, eval_envs, seed, owned, facts, actors)
    for each in (stream, evaluated):
        if watchdog is not None and isinstance(each, EnvStream):
            watchdog.watch(each.env_calls)
    return Streams(stream, evaluated, watchdog)


def _make_streams(
    config: Config,
    envs: VectorEnv | Factory | None,
    eval_envs: VectorEnv | None,
    seed: int,
    owned: ExitStack,
    facts: EnvFacts,
    actors: Any,
) -> tuple[Any, EnvStream | None]:
    keys = config.info_keys
    evaluated = None if eval_envs is None else EnvStream(eval_envs, info_keys=keys)
    if isinstance(envs, VectorEnv) and config.offline:
        return OfflineStream(facts, config.num_envs), evaluated
    if isinstance(envs, VectorEnv):
        stream = EnvStream(envs, config.env_batch_size, info_keys=keys)
        owned.callback(stream.settle)
        return stream, evaluated
    how = recipe(config, envs)
    try:  # making many environments may fail where making one worked
        if config.offline:
            stream = OfflineStream(facts, config.num_envs)
        elif actors is not None:
            stream = actors
        else:
            made = how.make(config.num_envs, seed=seed, env_batch_size=config.env_batch_size)
            stream = _stream_over(made, owned, keys, config.env_batch_size, config.restart_envs)
        if evaluated is None and evaluates(config):
            # Worker processes cost memory, so evaluation uses at most as many as training.
            lanes = eval_lanes(how, config.eval_episodes, config.num_envs)
            made_to_score = how.for_scores().make(lanes, seed=env_seed(config.seed, EVAL))
            evaluated = _stream_over(made_to_score, owned, keys)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    return stream, evaluated


def eval_lanes(how: EnvRecipe, episodes: int, most_processes: int) -> int:
    """Returns the number of environments that play a number of episodes in rounds.

    Episode i has the seed of the evaluation plus i, whatever the number is.
    """
    mode = how.resolve()
    each = {"async": most_processes, "sync": _MOST_LOOPED, "workers": 2 * _MOST_LOOPED}
    most = each.get(mode, _MOST_COMPILED)
    rounds = math.ceil(episodes / most)
    return math.ceil(episodes / rounds)


def _stream_over(
    envs: VectorEnv, owned: ExitStack, info_keys: tuple[str, ...], *options: Any
) -> EnvStream:
    """Returns a stream over environments made here, which it closes."""
    try:
        stream = EnvStream(envs, *options, info_keys=info_keys)
    except BaseException:
        close_quietly(envs)
        raise
    owned.callback(stream.close)
    return stream
