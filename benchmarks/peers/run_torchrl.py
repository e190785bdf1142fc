"""TorchRL's DQN, put together as its own dqn_cartpole example does."""

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
    per = task.workload.steps_per_update
    lanes = SerialEnv(task.num_envs, lambda: GymEnv(w.ENV_ID, categorical_action_encoding=True))
    spec = lanes.single_action_spec
    network = MLP(4, 2, num_cells=list(w.HIDDEN_SIZES), activation_class=torch.nn.ReLU)
    actor = QValueActor(network, spec=spec)
    explore = EGreedyModule(
        spec,
        eps_init=w.INITIAL_EPSILON,
        eps_end=w.FINAL_EPSILON,
        annealing_num_steps=w.EPSILON_STEPS,
    )
    collector = Collector(
        lanes, TensorDictSequential(actor, explore), frames_per_batch=per, total_frames=-1
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
        if steps > w.LEARNING_STARTS:
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
