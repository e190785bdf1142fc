"""Environments: creation, stepping, and the separation of transitions from episode starts."""

from fastdqn.envs.backends import ready_count
from fastdqn.envs.declared_stack import declared_stack
from fastdqn.envs.env_calls import EnvCalls
from fastdqn.envs.env_facts import EnvFacts, count_problem, read_facts, read_spaces
from fastdqn.envs.env_state import read_env_state, why_unreadable, write_env_state
from fastdqn.envs.env_stream import EnvStream
from fastdqn.envs.errors import EnvError, HungError, MakeError, NonFiniteError
from fastdqn.envs.make import VECTORIZATIONS, EnvRecipe, Factory
from fastdqn.envs.observations import ObsReader
from fastdqn.envs.offline_stream import OfflineStream
from fastdqn.envs.probe import limit_of, probe_env, probe_env_and_space
from fastdqn.envs.registry import UnknownEnvError, find_spec, lies_inside, nearest, registered
from fastdqn.envs.render import Screen, open_screen
from fastdqn.envs.running_statistics import ObsStatistics, ReturnStatistics
from fastdqn.envs.step import Step
from fastdqn.envs.sub_env import close_quietly, shared_sub_env
from fastdqn.envs.supported_envs import find_supported_envs
from fastdqn.envs.watchdog import EnvCreation

__all__ = [
    "VECTORIZATIONS",
    "EnvCalls",
    "EnvCreation",
    "EnvError",
    "EnvFacts",
    "EnvRecipe",
    "EnvStream",
    "Factory",
    "HungError",
    "MakeError",
    "NonFiniteError",
    "ObsReader",
    "ObsStatistics",
    "OfflineStream",
    "ReturnStatistics",
    "Screen",
    "Step",
    "UnknownEnvError",
    "close_quietly",
    "count_problem",
    "declared_stack",
    "find_spec",
    "find_supported_envs",
    "lies_inside",
    "limit_of",
    "nearest",
    "open_screen",
    "probe_env",
    "probe_env_and_space",
    "read_env_state",
    "read_facts",
    "read_spaces",
    "ready_count",
    "registered",
    "shared_sub_env",
    "why_unreadable",
    "write_env_state",
]
