"""Files of a tabular run: its policy and its options."""

from typing import Any

from fastdqn.checkpoints.table_weights import load_table, save_table
from fastdqn.config.schema import ConfigError
from fastdqn.files.open_folder import Where
from fastdqn.files.run_folder import read_options
from fastdqn.tabular.config import TableConfig
from fastdqn.tabular.discretizer import Cells, Discretizer
from fastdqn.tabular.q_table import TablePolicy


def save_table_policy(path: Where, policy: TablePolicy) -> None:
    """Writes a policy atomically; raises WriteError."""
    digits = policy.discretizer.cells._asdict()
    save_table(path, policy.table, digits, policy.obs_shape)


def load_table_policy(path: Where) -> tuple[TablePolicy, dict[str, Any]]:
    """Returns a greedy policy and the description of its table; raises WeightsError."""
    table, digits, described = load_table(path)
    policy = TablePolicy(table, Discretizer(Cells(**digits), tuple(described["obs_shape"])))
    return policy, described


def read_table_config(folder: Where) -> TableConfig:
    """Returns the options of a tabular run; raises ConfigError."""
    return read_options(folder, TableConfig.from_json)


def is_table_run(folder: Where) -> bool:
    """Whether a folder holds a tabular run."""
    try:
        return bool(read_table_config(folder))
    except ConfigError:
        return False
