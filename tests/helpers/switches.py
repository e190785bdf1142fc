"""Each technique switch, and pairs of them."""

from fastdqn import Config
from helpers.loop import small

SWITCHES = {
    "double": {"double": True},
    "dueling": {"dueling": True},
    "prioritized": {"prioritized": True},
    "n_steps": {"n_steps": 3},
    "categorical": {"value": "categorical", "num_atoms": 7, "v_min": -50.0, "v_max": 250.0},
    "quantile": {"value": "quantile", "num_quantiles": 5},
    "implicit-quantile": {
        "value": "implicit-quantile", "num_fractions": 3, "num_target_fractions": 4,
        "num_policy_fractions": 5,
    },
    "hl-gauss": {"value": "hl-gauss", "num_atoms": 7, "v_min": -50.0, "v_max": 250.0},
    "munchausen": {"munchausen": True},
    "noisy": {"noisy": True},
    "polyak": {"tau": 0.1, "target_network_frequency": 2},
    "normalize_observation": {"normalize_observation": True},
    "normalize_reward": {"normalize_reward": True},
    "huber": {"loss": "huber"},
    "ladder": {"exploration": "ladder"},
    "decay": {"exploration_decay": 0.9},
    "zeta": {"exploration_zeta": 2.0},
    "no-replay": {"replay": False},
    "no-target-network": {"target_network": False},
}  # fmt: skip


def paired(tmp_path, *names: str, **overrides) -> Config:
    """Returns a small config with only the named switches on."""
    base = small(
        tmp_path, total_timesteps=250, train_frequency=1, hidden_sizes=(6, 5), double=False,
        dueling=False, checkpoint_seconds=None,
    )  # fmt: skip
    return base.replace(**{k: v for name in names for k, v in SWITCHES[name].items()} | overrides)
