"""Environments: making them, stepping them, telling transitions from starts."""

from fastdqn.acting.make import (
    VECTORIZATIONS,
    find_spec,
    make_envs,
    nearest,
    registered,
    resolve_vectorization,
)
from fastdqn.acting.spaces import SpaceFacts, read_spaces
from fastdqn.acting.stream import EnvError, EnvStream, NonFiniteError, Step

__all__ = [
    "VECTORIZATIONS",
    "EnvError",
    "EnvStream",
    "NonFiniteError",
    "SpaceFacts",
    "Step",
    "find_spec",
    "make_envs",
    "nearest",
    "read_spaces",
    "registered",
    "resolve_vectorization",
]
