"""Environments compiled from plain functions: one kernel steps all of them.

An EnvDefinition holds reset(), step() and observe() of one environment. CompiledVectorEnv steps N
of them, and register() makes both available to gymnasium.make() and gymnasium.make_vec(), and so to
any library. The ids that begin with fastdqn/ are registered here.
"""

from fastdqn.compiled import acrobot, catch
from fastdqn.compiled.definition import EnvDefinition
from fastdqn.compiled.registry import find_definition, has_definition, is_registered, register
from fastdqn.compiled.single_env import CompiledEnv
from fastdqn.compiled.vector_env import CompiledVectorEnv

__all__ = [
    "CompiledEnv", "CompiledVectorEnv", "EnvDefinition", "find_definition", "has_definition",
    "is_registered", "register",
]  # fmt: skip

register("fastdqn/Acrobot-v1", acrobot.definition)
register("fastdqn/Catch-v0", catch.definition)
