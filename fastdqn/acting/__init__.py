"""Environments: making them, stepping them, telling transitions from starts."""

from fastdqn.acting.asking import Asking
from fastdqn.acting.backends import answers_for
from fastdqn.acting.catalogue import catalogue
from fastdqn.acting.env_state import read_env_state, why_unreadable, write_env_state
from fastdqn.acting.failures import EnvError, HungError, MakeError, NonFiniteError
from fastdqn.acting.look import limit_of, look, look_closer
from fastdqn.acting.make import VECTORIZATIONS, EnvRecipe, Factory
from fastdqn.acting.making import Making
from fastdqn.acting.names import UnknownEnvError, find_spec, lies_inside, nearest, registered
from fastdqn.acting.observations import ObsReader
from fastdqn.acting.screen import Screen, open_screen
from fastdqn.acting.spaces import EnvFacts, count_problem, read_facts, read_spaces
from fastdqn.acting.stacking import declared_stack
from fastdqn.acting.statistics import ObsStatistics, ReturnStatistics
from fastdqn.acting.step import Step
from fastdqn.acting.stream import EnvStream
from fastdqn.acting.sub_env import close_quietly, shared_sub_env

__all__ = [
    "VECTORIZATIONS",
    "Asking",
    "EnvError",
    "EnvFacts",
    "EnvRecipe",
    "EnvStream",
    "Factory",
    "HungError",
    "MakeError",
    "Making",
    "NonFiniteError",
    "ObsReader",
    "ObsStatistics",
    "ReturnStatistics",
    "Screen",
    "Step",
    "UnknownEnvError",
    "answers_for",
    "catalogue",
    "close_quietly",
    "count_problem",
    "declared_stack",
    "find_spec",
    "lies_inside",
    "limit_of",
    "look",
    "look_closer",
    "nearest",
    "open_screen",
    "read_env_state",
    "read_facts",
    "read_spaces",
    "registered",
    "shared_sub_env",
    "why_unreadable",
    "write_env_state",
]
