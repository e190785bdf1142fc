"""DQN of SBX: the loop of Stable-Baselines3 with a JAX learner."""

# The extra `peers` may not be installed for the type checker.
# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from types import SimpleNamespace

import flax.linen as nn
import jax
import optax
from sbx import DQN
from sbx.dqn import dqn, policies

from peers import workload as w
from peers.gym_lanes import learn, make_lanes, settings
from peers.torch_parts import pin_threads
from peers.window import Window
from peers.workload import Outcome, Task


class QNetwork(nn.Module):
    """Network of SBX with layers of different sizes. n_units is ignored."""

    n_actions: int
    n_units: int
    activation_fn: object

    @nn.compact
    def __call__(self, x):
        for units in w.HIDDEN_SIZES:
            x = nn.relu(nn.Dense(units)(x))
        return nn.Dense(self.n_actions)(x)


def run(task: Task, window: Window) -> Outcome:
    pin_threads(task.threads)  # its replay buffer returns torch tensors
    policies.QNetwork = QNetwork
    # The update has no option for the loss, so the functions in its module are replaced.
    dqn.optax = SimpleNamespace(
        huber_loss=optax.squared_error, incremental_update=optax.incremental_update
    )
    model = DQN("MlpPolicy", make_lanes(task.lanes.num_envs), **settings(task))
    learn(model, task, window)
    state = model.policy.qf_state
    return Outcome(
        model._n_updates,
        int(optax.tree_utils.tree_get(state.opt_state, "count")),
        sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    )
