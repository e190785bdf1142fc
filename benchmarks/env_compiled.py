"""Compiled environments of bench_env.py, and the Python environments that they stand for."""

from pathlib import Path

import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import SyncVectorEnv, VectorEnv

import fastdqn
from env_peers import Stepped, in_turn, random_actions
from fastdqn.compiled import CompiledVectorEnv, find_definition

# Id of the compiled form: id of the Python form.
PAIRS = {
    "CartPole-v1": "CartPole-v1", "MountainCar-v0": "MountainCar-v0",
    "fastdqn/Acrobot-v1": "Acrobot-v1", "FrozenLake-v1": "FrozenLake-v1", "Taxi-v4": "Taxi-v4",
    "CompiledLift-v0": "Lift-v0",
}  # fmt: skip
_PAGE = Path(fastdqn.__file__).parent / "docs" / "compiled_envs.md"


def register_lift() -> None:
    """Registers both forms of the guide's lift, from the text of the page."""
    if "Lift-v0" in gymnasium.registry:
        return
    blocks = _PAGE.read_text().split("```python\n# my_")[1:]
    for block in blocks:
        exec(compile(block.partition("```")[0].partition("\n")[2], "lift", "exec"), {})


def compiled(env_id: str, num_envs: int) -> Stepped:
    return _stepped(CompiledVectorEnv(find_definition(env_id, {}), num_envs, copy=False))


def python(env_id: str, num_envs: int) -> Stepped:
    makers = [lambda: gymnasium.make(PAIRS[env_id])] * num_envs
    return _stepped(SyncVectorEnv(makers, copy=False))


def native(num_envs: int) -> Stepped:
    """Gymnasium's CartPole in NumPy."""
    return _stepped(CartPoleVectorEnv(num_envs=num_envs))


def _stepped(envs: VectorEnv) -> Stepped:
    envs.reset(seed=0)
    actions = random_actions(int(envs.single_action_space.n), envs.num_envs)  # pyright: ignore[reportAttributeAccessIssue]
    return Stepped(in_turn(envs.step, actions), envs.close)
