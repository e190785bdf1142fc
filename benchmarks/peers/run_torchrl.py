"""DQN of TorchRL, assembled as in its dqn_cartpole example."""

# The extra `peers` may not be installed for the type checker.
# pyright: reportMissingImports=false, reportPrivateImportUsage=false

import torch
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv, SerialEnv
from torchrl.modules import MLP, EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, HardUpdate

from peers import torch_parts
from peers import workload as w
from peers.window import Window
from peers.workload import Outcome, Task


def run(task: Task, window: Window) -> Outcome:
    torch_parts.pin_threads(task.threads)
    torch.manual_seed(task.seed)
    num_envs, burst = task.lanes
    per = task.workload.steps_per_update
    lanes = SerialEnv(num_envs, make_lane)
    spec = lanes.action_spec_unbatched
    network = MLP(4, 2, num_cells=list(w.HIDDEN_SIZES), activation_class=torch.nn.ReLU)
    actor = QValueActor(network, spec=spec)
    explore = EGreedyModule(
        spec,
        eps_init=w.INITIAL_EPSILON,
        eps_end=w.FINAL_EPSILON,
        annealing_num_steps=w.EPSILON_STEPS,
    )
    collector = Collector(
        lanes,
        TensorDictSequential(actor, explore),  # pyright: ignore[reportArgumentType]
        frames_per_batch=burst * per,
        total_frames=-1,
        track_traj_ids=False,
        auto_register_policy_transforms=False,  # they serve recurrent policies
    )
    replay = TensorDictReplayBuffer(
        storage=LazyTensorStorage(w.BUFFER_SIZE), batch_size=task.workload.batch_size
    )
    loss = DQNLoss(actor, loss_function="l2", delay_value=True, double_dqn=False)
    loss.make_value_estimator(gamma=w.GAMMA)
    target = HardUpdate(loss, value_network_update_interval=round(w.TARGET_FREQUENCY / per))
    optimizer = torch.optim.Adam(loss.parameters(), lr=w.LEARNING_RATE)
    window.mark("built")
    steps = updates = 0
    for data in collector:
        explore.step(data.numel())
        replay.extend(data.reshape(-1))
        steps += data.numel()
        for _ in range(burst if steps > w.LEARNING_STARTS else 0):
            optimizer.zero_grad()
            loss(replay.sample())["loss"].backward()
            optimizer.step()
            target.step()
            updates += 1
        if window.tick(steps, updates):
            break
    collector.shutdown()
    return Outcome(
        updates, torch_parts.optimizer_updates(optimizer), torch_parts.parameters(network)
    )


def make_lane() -> GymEnv:
    return GymEnv(w.ENV_ID, categorical_action_encoding=True)
