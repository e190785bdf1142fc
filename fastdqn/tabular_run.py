"""Tabular runs: builds and runs tabular Q-learning in the loop that trains networks."""

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastdqn.builders import preflight
from fastdqn.builders.auto_options import resolve
from fastdqn.builders.build import make_best_weights, make_epsilon, make_evaluations
from fastdqn.builders.environments import make_streams
from fastdqn.builders.network_size import NetworkSize
from fastdqn.builders.run_outputs import disk_errors, take_folder
from fastdqn.config.schema import ConfigError, ResolvedConfig
from fastdqn.envs import EnvError, EnvFacts, UnknownEnvError, probe_env_and_space
from fastdqn.envs.watchdog import watch_making
from fastdqn.files.open_folder import Where
from fastdqn.files.run_folder import default_run_dir, working_folder
from fastdqn.logging.console import make_display
from fastdqn.logging.metric_sinks import MetricsSink, TensorBoardEvents
from fastdqn.logging.recorder import RunRecorder
from fastdqn.schedules import Budget, Linear
from fastdqn.seeding import EXPLORE, TRAIN, derive, env_seed
from fastdqn.session import Session, Trained, run_session, say_environment
from fastdqn.system.available_memory import available_bytes
from fastdqn.system.signals import passed_on
from fastdqn.tabular.config import TableConfig
from fastdqn.tabular.discretizer import Cut, Discretizer, cut, describe_bounds, power, too_large
from fastdqn.tabular.files import load_table_policy, save_table_policy
from fastdqn.tabular.q_learning import LastStep, QLearner
from fastdqn.tabular.q_table import TablePolicy
from fastdqn.timing import Laps
from fastdqn.training.loop import Run

# Tables in memory at once: the one that learns, and either two copies while it is written, or the
# best one that the final evaluation loads.
_COPIES = 3


class Plan(NamedTuple):
    """Facts about a run before it is built: its environment and its discretization."""

    facts: EnvFacts
    found: Cut


@dataclass(frozen=True)
class EveryDelivery:
    """Cadence with one update per iteration of the loop, on the transitions of the last step."""

    eval_frequency: int  # steps; 0: never
    log_frequency: int
    snapshot_frequency: int | None = None

    def updates_due(self, before: int, now: int) -> int:
        return int(now > before)


def check(config: TableConfig, mistaken: bool = False) -> tuple[Plan | None, list[str]]:
    """Validates a config against its environment. Returns (plan, error messages).

    Args:
        config: Options of the run.
        mistaken: Whether errors were found before, so that an EnvError is not raised.

    Raises:
        EnvError: The reset of the environment fails, and there are no errors.
    """
    if lines := config.type_problems():
        return None, lines  # the other checks need values of the declared types
    lines = [*config.problems(), *preflight.problems_around(config.shared())]
    try:
        with watch_making(config.env_id, config.max_step_seconds):
            facts, space = probe_env_and_space(preflight.recipe(config.shared()))
    except UnknownEnvError as error:
        return None, [*lines, preflight.unknown_subject(config.env_id) or str(error)]
    except ValueError as error:
        return None, [*lines, str(error)]
    except EnvError:
        if not (lines or mistaken):
            raise
        return None, lines
    try:
        name = "" if config.wrapper else config.env_id
        found = cut(space, name, config.bins, config.low, config.high)
    except ValueError as error:
        return None, [*lines, *str(error).split("\n")]
    room, row = available_bytes(), _COPIES * facts.num_actions * _itemsize(config)
    # State numbers are int64.
    most = min((1 << 62) if room is None else room, row << 62)
    if not lines and found.cells.num_states * row > most:
        lines.append(too_large(found, space, config.env_id, row, most))
    return Plan(facts, found), lines


def describe_table(config: TableConfig, plan: Plan) -> list[str]:
    """Returns lines about the size of the table and the edges of its bins."""
    states, actions = plan.found.cells.num_states, plan.facts.num_actions
    size = states * actions * _itemsize(config)
    text = f"{size / 2**20:,.1f} MiB" if size >= 1 << 20 else f"{size:,} bytes"
    return [
        f"table: {power(plan.found.cells.bins)} states x {actions} actions in {config.precision}: "
        f"{text}, and twice as much in addition while it is written",
        *describe_bounds(plan.found),
    ]


def train(config: TableConfig, *, quiet: bool = True, imports_seconds: float = 0.0) -> Trained:
    """Trains a Q-table and writes its run folder.

    Raises:
        ConfigError: All errors in the options, a line each.
        EnvError, NonFiniteError: An environment fails. The run folder is complete up to there.
    """
    base = working_folder()  # an environment may change the working directory
    plan, lines = check(config)
    if lines or plan is None:
        raise ConfigError(lines)
    run_dir = config.run_dir or default_run_dir(config.shared())
    config = config.replace(run_dir=str(base / run_dir))
    with passed_on():
        return run_session(build(config, plan, quiet), imports_seconds)


def build(config: TableConfig, plan: Plan, quiet: bool) -> Session:
    """Builds a run from options that passed check().

    Raises:
        ConfigError: The run folder cannot be made.
        EnvError: The first reset fails.
    """
    startup = Laps()
    with ExitStack() as unbegun, ExitStack() as owned:
        seed = env_seed(config.seed, TRAIN)
        shared = resolved_shared(config, plan)
        stream, eval_stream, watchdog = make_streams(shared, None, None, seed, owned, plan.facts)
        config = resolved(config, plan, shared)
        start = stream.start(seed)
        folder = take_folder(shared, unbegun, owned, config.to_json())
        display = make_display(f"fastdqn  {config.env_id}  {config.preset}", quiet)
        for line in describe_table(config, plan):
            display.say(line)
        policy, learner, delivery = _make_parts(config, plan, stream.num_lanes)
        startup.lap("build")
        delivery.append(start)
        learner.update(delivery.device)
        policy(stream.obs, stream.mask)
        startup.lap("kernels")
        budget = Budget(config.total_timesteps, config.total_episodes)
        sinks: list[MetricsSink] = [TensorBoardEvents(folder)] if config.tensorboard else []
        recorder = RunRecorder(
            folder, display, sinks, lambda path: save_table_policy(path, policy), budget.fraction,
            disk_errors=disk_errors(shared),
        )  # fmt: skip
        owned.callback(recorder.close)
        evaluations = make_evaluations(shared, policy, eval_stream)
        best_weights = make_best_weights(shared, evaluations, recorder)
        cadence: Any = EveryDelivery(config.eval_frequency, shared.log_frequency or 1)
        run = Run(
            stream, policy, delivery, delivery, learner, make_epsilon(shared), budget, cadence,
            recorder, best_weights, start,
        )  # fmt: skip
        startup.lap("build")
        unbegun.pop_all()
        return Session(
            shared, run, recorder, best_weights, evaluations, startup, owned.pop_all(),
            plan.facts, introduce=_introduce,
            saved_policy=_saved_policy, watchdog=watchdog,
        )  # fmt: skip


def _make_parts(config: TableConfig, plan: Plan, num_lanes: int) -> tuple[Any, Any, Any]:
    """Returns policy, learner, and one object in the roles of replay and staging."""
    discretizer = Discretizer(plan.found.cells, plan.facts.obs_shape)
    table = np.zeros((plan.found.cells.num_states, plan.facts.num_actions), config.precision)
    policy = TablePolicy(table, discretizer, derive(config.seed, EXPLORE))
    learner = QLearner(table, float(config.gamma), _make_rate(config))
    return policy, learner, LastStep(discretizer, num_lanes, plan.facts.num_actions)


def resolved_shared(config: TableConfig, plan: Plan) -> ResolvedConfig:
    """Returns the options that are shared with Config, resolved."""
    shared = config.shared()
    how = preflight.recipe(shared).resolve()
    return resolve(shared, plan.facts, how, size=NetworkSize(0)).config


def resolved(config: TableConfig, plan: Plan, shared: ResolvedConfig) -> TableConfig:
    """Returns the options with each None resolved, and bins and edges of each feature."""
    cells = plan.found.cells._asdict()
    cells = {name: values[plan.found.binned] for name, values in cells.items()}
    names = [each.name for each in dataclasses.fields(config)]
    values = {n: getattr(shared, n) for n in names if hasattr(shared, n) and n != "learning_rate"}
    values["final_learning_rate"] = config.final_learning_rate
    if config.final_learning_rate is None:
        falls = config.total_timesteps is not None
        values["final_learning_rate"] = config.learning_rate / (100 if falls else 1)
    if len(cells["bins"]):
        for name in ("bins", "low", "high"):
            values[name] = tuple(cells[name].tolist())
    return config.replace(**values)


def _make_rate(config: TableConfig) -> Linear:
    assert config.final_learning_rate is not None
    first, last = float(config.learning_rate), float(config.final_learning_rate)
    return Linear(first, last, config.total_timesteps or 0)


def _itemsize(config: TableConfig) -> int:
    return np.dtype(config.precision).itemsize


def _introduce(session: Session) -> None:
    shared = session.config
    session.recorder.say(
        f"run folder: {session.recorder.folder}\n{shared.num_envs} environments "
        f"({shared.vectorization}); each transition is learned from once"
    )
    say_environment(session)


def _saved_policy(path: Where, like: Any) -> TablePolicy:
    return load_table_policy(path)[0]
