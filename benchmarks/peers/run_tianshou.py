"""DQN of Tianshou: its Collector and its update in turns."""

# The extra `peers` may not be installed for the type checker.
# pyright: reportMissingImports=false, reportPrivateImportUsage=false

import gymnasium
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.torch_utils import policy_within_training_step

from peers import torch_parts
from peers import workload as w
from peers.window import Window
from peers.workload import Outcome, Task


def run(task: Task, window: Window) -> Outcome:
    torch_parts.pin_threads(task.threads)
    num_envs, burst = task.lanes
    per = task.workload.steps_per_update
    lanes = DummyVectorEnv([lambda: gymnasium.make(w.ENV_ID)] * num_envs)
    lanes.seed(task.seed)
    network = Net(state_shape=4, action_shape=2, hidden_sizes=w.HIDDEN_SIZES)
    policy = DiscreteQLearningPolicy(model=network, action_space=gymnasium.spaces.Discrete(2))
    algorithm = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=w.LEARNING_RATE),
        gamma=w.GAMMA,
        target_update_freq=round(w.TARGET_FREQUENCY / per),  # in updates
        is_double=False,
    )
    replay = VectorReplayBuffer(w.BUFFER_SIZE, num_envs)
    collector = Collector(
        policy, lanes, replay, exploration_noise=True, raise_on_nan_in_buffer=False
    )
    collector.reset()
    window.mark("built")
    steps = updates = 0
    with policy_within_training_step(policy):
        while not window.tick(steps, updates):
            policy.set_eps_training(w.epsilon(steps))
            collector.collect(n_step=burst * per)
            steps += burst * per
            for _ in range(burst if steps > w.LEARNING_STARTS else 0):
                algorithm.update(replay, task.workload.batch_size)
                updates += 1
    return Outcome(
        updates,
        torch_parts.optimizer_updates(algorithm.optim._optim),
        torch_parts.parameters(network),
    )
