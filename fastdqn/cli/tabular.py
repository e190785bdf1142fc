"""Table command: `fastdqn tabular`, a Q-table trained where its states can be counted."""

import json
from dataclasses import dataclass

import tyro

from fastdqn import tabular_run
from fastdqn.builders.auto_options import preview
from fastdqn.cli import parser
from fastdqn.cli.commands import describe
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import ConfigError
from fastdqn.seeding import seed_global_generators
from fastdqn.system.signals import answered
from fastdqn.tabular.config import TableConfig
from fastdqn.timing import process_age


@dataclass(frozen=True)
class TabularOptions:
    config: tyro.conf.OmitArgPrefixes[TableConfig]
    dry_run: bool = False
    """Print the resolved options and the size of the table, and stop."""
    quiet: bool = False
    """Print nothing but errors."""


def tabular(name: str | None, args: list[str]) -> int:
    """Run the command; returns the exit code.

    name  an environment's id, or a preset whose environment is meant; None: only help is asked for
    Raises ConfigError with all mistakes, a line each; EnvError where the environment fails.
    """
    env_id = PRESETS[name].env_id if name in PRESETS else name or TableConfig.env_id
    default = TabularOptions(TableConfig(env_id=env_id))
    chosen, mistakes = parser.parse(args, default, f"fastdqn tabular {name or 'ENV_ID'}")
    if chosen.config.preset != default.config.preset:
        mistakes.append("--preset only labels a run: a table has no other settings to start from")
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
    if not chosen.quiet:
        print(describe(trained))
    return 130 if trained.summary["exit_reason"].endswith("interrupted") else 0


def _planned(config: TableConfig, plan: tabular_run.Plan) -> str:
    """What a run would do: resolved options, and the table."""
    values = json.loads(tabular_run.resolved(config, plan, preview(config.shared())[0]).to_json())
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
