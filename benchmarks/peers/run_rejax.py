"""DQN of rejax: environments, replay buffer and learner in one XLA program."""

# The extra `peers` may not be installed for the type checker.
# pyright: reportMissingImports=false, reportPrivateImportUsage=false

import jax
import optax
from flax import linen as nn
from jax import lax
from rejax import DQN
from rejax.networks import DiscreteQNetwork, EpsilonGreedyPolicy

from peers import workload as w
from peers.window import Window
from peers.workload import Outcome, Task


def run(task: Task, window: Window) -> Outcome:
    """Trains with an update per iteration of num_envs steps, without the evaluation of train()."""
    if task.lanes.num_envs != task.workload.steps_per_update:
        raise ValueError("an iteration of rejax is one step of each environment")
    algorithm = DQN.create(
        env=w.ENV_ID,
        num_envs=task.lanes.num_envs,
        num_epochs=1,
        ddqn=False,
        total_timesteps=task.total_steps,
        exploration_fraction=w.EPSILON_STEPS / task.total_steps,
        eps_start=w.INITIAL_EPSILON,
        eps_end=w.FINAL_EPSILON,
        learning_rate=w.LEARNING_RATE,
        gamma=w.GAMMA,
        buffer_size=w.BUFFER_SIZE,
        fill_buffer=w.LEARNING_STARTS,
        batch_size=task.workload.batch_size,
        target_update_freq=w.TARGET_FREQUENCY,
        polyak=0.0,  # fraction of the target network that is kept
    ).replace(
        # create() has no option for hidden sizes, so the network is passed.
        agent=EpsilonGreedyPolicy(DiscreteQNetwork)(  # pyright: ignore[reportArgumentType]
            hidden_layer_sizes=w.HIDDEN_SIZES, action_dim=2, activation=nn.relu
        )
    )

    @jax.jit
    def advance(state, iterations):
        return lax.fori_loop(0, iterations, lambda _, s: algorithm.train_iteration(s), state)

    state = algorithm.init_state(jax.random.PRNGKey(task.seed))
    for _ in range(2):  # twice: weak types in the first state cause a second compilation
        state = advance(state, 1)
    jax.block_until_ready(state)
    window.mark("built")
    for goal in (window.start_steps, window.stop_steps):
        state = advance(state, (goal - int(state.global_step)) // task.lanes.num_envs)
        jax.block_until_ready(state)
        window.tick(int(state.global_step), int(state.q_ts.step))
    return Outcome(
        int(state.q_ts.step),
        int(optax.tree_utils.tree_get(state.q_ts.opt_state, "count")),
        sum(leaf.size for leaf in jax.tree.leaves(state.q_ts.params)),
    )
