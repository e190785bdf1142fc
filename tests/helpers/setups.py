"""Setups of runs and resolved options for tests that build parts."""

from typing import Any

from fastdqn import Config
from fastdqn.builders.auto_options import resolve
from fastdqn.builders.network_size import NetworkSize
from fastdqn.builders.parts import NO_PARTS, UserParts
from fastdqn.builders.preflight import Setup
from fastdqn.builders.user_object_checks import prepared
from fastdqn.config.schema import ResolvedConfig
from fastdqn.envs import EnvFacts


def setup_of(config: Config, envs: Any = None, torso: Any = None, **objects: Any) -> Setup:
    """What build() takes, for options and objects passed from Python.

    Graphs on the CPU, which users are refused, are for tests that record calls otherwise.
    """
    own = UserParts(torso, objects)
    if (config.device, config.capture) != ("cpu", "graph"):
        return prepared(config, envs, None, {}, own)
    setup = prepared(config.replace(capture="eager"), envs, None, {}, own)
    launch = config.updates_per_launch or setup.config.updates_per_launch
    recorded = setup.config.replace(capture="graph", updates_per_launch=launch)
    return setup._replace(requested=config, config=recorded)


def resolved(
    config: Config, facts: EnvFacts, how: str = "sync", own: UserParts = NO_PARTS,
    weights: int | None = None,
) -> ResolvedConfig:  # fmt: skip
    """Resolved options for an environment; weights: as if the network had this many."""
    size = None if weights is None else NetworkSize(weights)
    return resolve(config, facts, how, own, size).config
