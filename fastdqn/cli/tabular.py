"""The tabular command: trains a Q-table."""

import json
from dataclasses import dataclass

from fastdqn import tabular_run
from fastdqn.cli import parser
from fastdqn.cli.commands import finish
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import ConfigError
from fastdqn.seeding import seed_global_generators
from fastdqn.system.signals import answered
from fastdqn.tabular.config import TableConfig
from fastdqn.timing import process_age


@dataclass(frozen=True)
class TabularOptions:
    config: TableConfig
    dry_run: bool = False
    """Print the resolved options and the size of the table, and stop."""
    quiet: bool = False
    """Print only errors."""


def tabular(name: str | None, args: list[str]) -> int:
    """Runs `fastdqn tabular`. Returns the exit code.

    Args:
        name: Environment id, or a preset whose environment is used. None for --help alone.
        args: The options.

    Raises:
        ConfigError: All errors in the options, a line each.
        EnvError: The environment fails.
    """
    env_id = PRESETS[name].env_id if name in PRESETS else name or TableConfig.env_id
    default = TabularOptions(TableConfig(env_id=env_id))
    chosen, mistakes = parser.parse(args, default, f"fastdqn tabular {name or 'ENV_ID'}")
    if chosen.config.preset != default.config.preset:
        mistakes.append("--preset only labels a run: tabular runs have no presets")
    if mistakes or chosen.dry_run:
        plan, lines = tabular_run.check(chosen.config, mistaken=bool(mistakes))
        if mistakes or lines or plan is None:
            raise ConfigError([*mistakes, *lines])
        print(_planned(chosen.config, plan))
        return 0
    seed_global_generators(chosen.config.seed)
    with answered():
        trained = tabular_run.train(
            chosen.config, quiet=chosen.quiet, imports_seconds=process_age()
        )
    return finish(trained, chosen.quiet)


def _planned(config: TableConfig, plan: tabular_run.Plan) -> str:
    """Returns what a dry run prints: resolved options and the size of the table."""
    values = json.loads(
        tabular_run.resolved(config, plan, tabular_run.resolved_shared(config, plan)).to_json()
    )
    width = max(map(len, values))
    return "\n".join(
        [
            *(f"{name:{width}}  {values[name]}" for name in values),
            "",
            f"observations {plan.facts.obs_shape} {plan.facts.obs_dtype}, "
            f"{plan.facts.num_actions} actions",
            *tabular_run.describe_table(config, plan),
        ]
    )
