"""DQN of Stable-Baselines3."""

# The extra `peers` may not be installed for the type checker.
# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from types import SimpleNamespace

import torch
from stable_baselines3 import DQN
from stable_baselines3.dqn import dqn

from peers import torch_parts
from peers import workload as w
from peers.gym_lanes import learn, make_lanes, settings
from peers.window import Window
from peers.workload import Outcome, Task


def run(task: Task, window: Window) -> Outcome:
    torch_parts.pin_threads(task.threads)
    # train() has no option for the loss, so the function in its module is replaced.
    dqn.F = SimpleNamespace(smooth_l1_loss=torch.nn.functional.mse_loss)
    model = DQN(
        "MlpPolicy",
        make_lanes(task.lanes.num_envs),
        policy_kwargs={"net_arch": list(w.HIDDEN_SIZES)},
        max_grad_norm=float("inf"),
        **settings(task),
    )
    learn(model, task, window)
    return Outcome(
        model._n_updates,
        torch_parts.optimizer_updates(model.policy.optimizer),
        torch_parts.parameters(model.q_net),
    )
