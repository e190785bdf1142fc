"""Presets: named sets of options."""

from fractions import Fraction

from fastdqn.config.schema import Config

_RAINBOW = {
    "double": True, "dueling": True, "prioritized": True, "n_steps": 3, "value": "categorical",
    "noisy": True,
}  # fmt: skip

PRESETS: dict[str, Config] = {
    # Tuned here: with 64 environments steps are cheap and updates are not, so updates are rare. Of
    # the learning rates tried, 1e-3 to 8e-3, the higher ones solved CartPole in fewer updates
    # (three to five seeds each, 40 steps per update, batch 128, 120-84 units). A batch of 64 and
    # 64 units per layer needed about as many updates, each cheaper (ten seeds).
    "cartpole": Config(
        preset="cartpole",
        num_envs=64,
        total_timesteps=200_000,
        learning_rate=8e-3,
        batch_size=64,
        hidden_sizes=(64, 64),
        buffer_size=100_000,
        train_frequency=Fraction(20),
        target_network_frequency=500,
        exploration_fraction=0.1,
        eval_frequency=10_000,
        eval_episodes=100,
        stop_at_return=475.0,
        v_min=0.0,  # for --value categorical: the return of 500 rewards of 1 at gamma 0.99 is 99.3
        v_max=100.0,
    ),
    # The textbook agent: one environment, an update per step, epsilon that decays per episode.
    "cartpole-classic": Config(
        preset="cartpole-classic",
        num_envs=1,
        total_timesteps=None,
        total_episodes=500,
        learning_rate=1e-3,
        buffer_size=100_000,
        learning_starts=64,
        batch_size=64,
        train_frequency=Fraction(1),
        target_network_frequency=10,
        max_grad_norm=1.0,
        double=False,
        dueling=False,
        hidden_sizes=(128, 128),
        exploration_final_eps=0.01,
        exploration_decay=0.995,
        eval_frequency=0,
        final_evaluation=True,
        eval_episodes=100,
    ),
    # Few episodes instead of a short time: one environment, two updates per step, a target network
    # that follows within some 20 updates, and little exploration. Found by a sweep with seeds from
    # 1,001 on, whose command and trials are in benchmarks/README.md.
    "cartpole-episodes": Config(
        preset="cartpole-episodes",
        num_envs=1,
        total_timesteps=30_000,
        total_episodes=400,
        learning_rate=5e-3,
        buffer_size=100_000,
        learning_starts=300,
        batch_size=64,
        train_frequency=Fraction(1, 2),
        target_network_frequency=1,
        tau=0.05,
        hidden_sizes=(64, 64),
        exploration_final_eps=0.01,
        exploration_decay=0.9,
        eval_frequency=500,
        eval_episodes=100,
        stop_at_return=490.0,
    ),
    # CleanRL's dqn.py on CartPole, the workload of the comparison with other trainers.
    "cartpole-cleanrl": Config(
        preset="cartpole-cleanrl",
        total_timesteps=500_000,
        learning_rate=2.5e-4,
        buffer_size=10_000,
        learning_starts=10_000,
        train_frequency=Fraction(10),
        target_network_frequency=500,
        max_grad_norm=None,
        double=False,
        dueling=False,
        exploration_fraction=0.5,
        eval_frequency=0,
        final_evaluation=True,
        eval_episodes=100,
    ),
    # Tuned here. States are one-hot, so the first layer is a table. The mean return of the optimal
    # policy over Taxi's 300 equally likely starts is 7.93.
    "taxi": Config(
        preset="taxi",
        env_id="Taxi-v4",
        total_timesteps=150_000,
        learning_rate=1e-3,
        batch_size=64,
        hidden_sizes=(128,),
        target_network_frequency=1_000,
        exploration_fraction=0.5,
        eval_episodes=200,
        stop_at_return=7.7,
    ),
    # Tuned here. The shortest path along the cliff costs 13. The environment has no time limit.
    "cliffwalking": Config(
        preset="cliffwalking",
        env_id="CliffWalking-v1",
        total_timesteps=60_000,
        learning_rate=1e-3,
        batch_size=64,
        hidden_sizes=(64,),
        target_network_frequency=500,
        exploration_fraction=0.5,
        eval_frequency=5_000,
        eval_episodes=10,
        eval_max_steps=200,
        stop_at_return=-13.0,
    ),
}
# Tuned here. One update per step, the batch size and 256-256 units are those of RL Baselines3 Zoo.
# The zoo uses a learning rate of 6.3e-4, a hard target update every 250 steps, one-step returns and
# a final epsilon of 0.1. Repeated random actions swing the tip up in the first episodes.
PRESETS["acrobot"] = Config(
    preset="acrobot",
    env_id="Acrobot-v1",
    num_envs=4,
    total_timesteps=100_000,
    train_frequency=Fraction(1),
    target_network_frequency=1,
    tau=0.005,
    n_steps=3,
    hidden_sizes=(256, 256),
    exploration_final_eps=0.02,
    exploration_zeta=2.0,
    eval_frequency=4_000,
    eval_episodes=100,
)
# Tuned here. The settings of RL Baselines3 Zoo (learning rate 4e-3, buffer 10,000, gamma 0.98,
# one-step returns, plain DQN, 256-256 units) did not reach the flag. Repeated random actions reach
# it in the first thousands of steps. Three-step returns and an update per step learn from that.
PRESETS["mountaincar"] = Config(
    preset="mountaincar",
    env_id="MountainCar-v0",
    num_envs=4,
    total_timesteps=120_000,
    learning_rate=1e-3,
    batch_size=64,
    buffer_size=120_000,
    train_frequency=Fraction(1),
    target_network_frequency=500,
    n_steps=3,
    hidden_sizes=(256, 256),
    exploration_fraction=0.4,
    exploration_final_eps=0.02,
    exploration_zeta=2.0,
    eval_frequency=6_000,
    eval_episodes=100,
)
# Tuned here, with the trials of benchmarks/results/lunarlander-trials.jsonl. Learning rate and
# batch are those of RL Baselines3 Zoo. In two trials each, a lander that hovers learned to land
# sooner with this exploration. Ten seeds do not confirm that after 100,000 steps. Quantiles
# predicted 0 to 12 more than the policy's returns, other values 17 to 76.
PRESETS["lunarlander"] = Config(
    preset="lunarlander",
    env_id="LunarLander-v3",
    num_envs=8,
    total_timesteps=200_000,
    learning_rate=6.3e-4,
    batch_size=128,
    buffer_size=100_000,
    train_frequency=Fraction(1),
    target_network_frequency=500,
    value="quantile",
    num_quantiles=25,
    hidden_sizes=(128, 128),
    exploration="ladder",
    exploration_zeta=2.0,
    eval_frequency=5_000,
    eval_episodes=50,
)
# Young and Tian 2019 (arXiv 1903.03176), appendix, and their dqn.py: all six actions, sticky
# actions of 0.1, epsilon from 1 to 0.1 over 100,000 frames of 5 million. Changed here: Adam
# in place of centered RMSProp, an update every second frame in place of every frame, sixteen
# environments, and a limit of evaluation episodes, since the games have none.
for _game in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"):
    _name = "minatar-" + _game.replace("Invaders", "-Invaders").lower()
    PRESETS[_name] = Config(
        preset=_name,
        env_id=f"MinAtar/{_game}-v0",
        total_timesteps=1_000_000,
        learning_rate=2.5e-4,
        buffer_size=100_000,
        learning_starts=5_000,
        batch_size=32,
        train_frequency=Fraction(2),
        target_network_frequency=1_000,
        max_grad_norm=None,
        loss="huber",
        double=False,
        dueling=False,
        exploration_final_eps=0.1,
        exploration_fraction=0.1,
        eval_frequency=100_000,
        eval_episodes=30,
        eval_max_steps=5_000,
    )
# Not tuned. Three-step returns and priorities propagate rare rewards faster. A million steps take
# an evening on two cores.
PRESETS["atari-pong"] = Config(
    preset="atari-pong",
    env_id="ALE/Pong-v5",
    atari_protocol="dqn2015",
    num_envs=16,
    total_timesteps=1_000_000,
    learning_rate=2.5e-4,
    adam_epsilon=1.5e-4,
    buffer_size=100_000,
    learning_starts=5_000,
    batch_size=32,
    train_frequency=Fraction(4),
    target_network_frequency=4_000,
    loss="huber",
    n_steps=3,
    prioritized=True,
    hidden_sizes=(512,),
    exploration_fraction=0.1,
    exploration_final_eps=0.01,
    eval_frequency=100_000,
    eval_episodes=8,
    stop_at_return=18.0,
)
PRESETS["atari-breakout"] = PRESETS["atari-pong"].replace(
    preset="atari-breakout",
    env_id="ALE/Breakout-v5",
    total_timesteps=5_000_000,
    learning_rate=1e-4,
    buffer_size=500_000,
    learning_starts=20_000,
    target_network_frequency=8_000,
    stop_at_return=None,
)
# Mnih et al. 2015, extended data table 1, on a game of your choice (--env-id), in steps: a target
# update per 10,000 updates of 4 steps is one per 40,000 steps, and epsilon decays over a million
# frames, a quarter as many steps. RMSProp has the settings of that table by default.
PRESETS["atari-dqn"] = Config(
    preset="atari-dqn",
    env_id="ALE/Breakout-v5",
    atari_protocol="dqn2015",
    num_envs=1,
    total_timesteps=50_000_000,
    optimizer="rmsprop",
    learning_rate=2.5e-4,
    buffer_size=1_000_000,
    learning_starts=50_000,
    batch_size=32,
    train_frequency=Fraction(4),
    target_network_frequency=40_000,
    max_grad_norm=None,
    loss="huber",
    double=False,
    dueling=False,
    hidden_sizes=(512,),
    exploration_fraction=0.006,
    exploration_final_eps=0.1,
    eval_frequency=250_000,
    eval_episodes=30,
)
# Hessel et al. 2018 (arXiv 1710.02298), table 1, with frames converted to steps. The gradient norm
# is that of Dueling, Wang et al. 2016. Epsilon is 0, since noisy layers explore.
PRESETS["atari-rainbow"] = PRESETS["atari-dqn"].replace(
    preset="atari-rainbow",
    optimizer="adam",
    learning_rate=6.25e-5,
    adam_epsilon=1.5e-4,
    learning_starts=20_000,
    target_network_frequency=8_000,
    max_grad_norm=10.0,
    loss="mse",
    noisy_sigma=0.5,
    priority_exponent=0.5,
    importance_exponent=0.4,
    num_atoms=51,
    v_min=-10.0,
    v_max=10.0,
    exploration_final_eps=None,
    dueling_gradient_scale=0.7071,  # Wang et al. 2016 (arXiv 1511.06581), section 4.2: 1/sqrt(2)
    **_RAINBOW,
)
# Hessel et al. 2018 (arXiv 1710.02298), table 1, where a setting does not depend on the task. For
# many environments: train frequency and learning rate of cartpole, and separate noise for each
# environment and step.
PRESETS["cartpole-rainbow"] = PRESETS["cartpole"].replace(preset="cartpole-rainbow", **_RAINBOW)

_MINATAR = (
    "Young and Tian 2019: Adam in place of centered RMSProp, an update every second frame in place "
    "of every one, 16 environments, a million frames in place of five"
)
_RAINBOW_DIFFERS = (
    "Hessel et al. 2018: priorities have no uniform share (DQN Zoo mixes in 1e-3); importance "
    "weights are divided by the largest of their batch"
)
# Deviations of a preset from the paper that it names, printed by `fastdqn presets`.
DIFFERENCES: dict[str, str] = {
    **{name: _MINATAR for name in PRESETS if name.startswith("minatar-")},
    "atari-dqn": (
        "Mnih et al. 2015: epsilon falls from the first step on, to 0.1 "
        "by step 300,000, where the paper keeps it at 1 for the first 50,000 steps; evaluation is "
        "greedy, the paper's has epsilon 0.05"
    ),
    "atari-rainbow": _RAINBOW_DIFFERS,
    "cartpole-rainbow": (
        f"{_RAINBOW_DIFFERS}; the dueling streams' gradient is not scaled by 1/sqrt(2); learning "
        "rate, batch, strides and network are those of the preset cartpole"
    ),
    "cartpole-cleanrl": "CleanRL's dqn.py: 16 environments where it has one",
}


def kept_goals(config: Config) -> list[str]:
    """Returns a line if a run keeps the goal of its preset for another environment."""
    preset = PRESETS.get(config.preset)
    if preset is None or config.stop_at_return is None or config.env_id == preset.env_id:
        return []
    if config.stop_at_return != preset.stop_at_return:
        return []
    return [
        f"warning: stop_at_return is {config.stop_at_return:g}, the goal of {preset.env_id}, and "
        f"env_id is {config.env_id}: use --stop-at-return, or fastdqn train {config.env_id}"
    ]


def defaults_of(env_id: str) -> Config:
    """Returns the default options of an environment id.

    MinAtar and Atari ids start from the settings of their presets, others from Config's defaults.
    """
    package = env_id.rpartition(":")[2].partition("/")[0]
    if package == "ALE":
        return PRESETS["atari-breakout"].replace(
            preset="atari", env_id=env_id, atari_protocol="auto"
        )
    if package == "MinAtar":
        return PRESETS["minatar-breakout"].replace(preset="minatar", env_id=env_id)
    return Config(env_id=env_id)
