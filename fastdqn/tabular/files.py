"""Table files: a Q-table's policy to a file and back, and the options of its run."""

from typing import Any

from fastdqn.checkpoints.table_weights import load_table, save_table
from fastdqn.config.schema import ConfigError
from fastdqn.files.open_folder import Where
from fastdqn.files.run_folder import read_options
from fastdqn.tabular.config import TableConfig
from fastdqn.tabular.discretizer import Cells, Discretizer
from fastdqn.tabular.q_table import TablePolicy


def save_table_policy(path: Where, policy: TablePolicy) -> None:
    """Write a policy, whole or not at all. Raises WriteError."""
    digits = policy.discretizer.cells._asdict()
    save_table(path, policy.table, digits, policy.obs_shape)


def load_table_policy(path: Where) -> tuple[TablePolicy, dict[str, Any]]:
    """A greedy policy, and the description of its table. Raises WeightsError, one line."""
    table, digits, told = load_table(path)
    return TablePolicy(table, Discretizer(Cells(**digits), tuple(told["obs_shape"]))), told


def read_table_config(folder: Where) -> TableConfig:
    """The options that a table's run was made with. Raises ConfigError."""
    return read_options(folder, TableConfig.from_json)


def is_table_run(folder: Where) -> bool:
    """Whether a run's options are those of a table."""
    try:
        return bool(read_table_config(folder))
    except ConfigError:
        return False
