"""Benchmarks of a run: each component alone, then training, then the bottleneck."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich.console import RenderableType

from fastdqn.bench.bottleneck import levers, sentence, try_levers
from fastdqn.bench.env_speed import LANES, measure_envs, workers_advice
from fastdqn.bench.learner_speed import BATCH_SIZES, measure_learner, measure_upload
from fastdqn.bench.machine_info import describe_machine, load_average, machine_line, torch_threads
from fastdqn.bench.policy_speed import lanes_of_a_call, measure_acting
from fastdqn.bench.repeats import Clock, Effort, Rate
from fastdqn.bench.replay_speed import measure_replay
from fastdqn.bench.results import Figure, phase_table, spread_warning, table
from fastdqn.bench.sb3_peer import PeerError, measure_by_turns, note, refusal, sb3_peer
from fastdqn.bench.technique_costs import measure_switches
from fastdqn.bench.training_speed import Trained, measure_training
from fastdqn.builders.devices import arithmetic
from fastdqn.builders.preflight import preview, recipe
from fastdqn.config.derived_facts import residual_phases
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.files.append_file import AppendFile
from fastdqn.files.atomic_write import WriteError, to_json

PARTS = ("env", "act", "replay", "learner", "train", "all")
# Numbers of environments for acting, besides that of the run.
_ACT_LANES = (1, 64, 512)


class Output(Protocol):
    """Where results and progress are shown as they come."""

    def show(self, drawn: RenderableType) -> None:
        """Shows a table or a line of results."""
        ...

    def warn(self, line: str) -> None: ...

    def begin(self, what: str) -> None:
        """Shows what is measured next."""
        ...


class Results(NamedTuple):
    """All figures, and all rows for JSON."""

    figures: list[Figure]
    rows: list[dict[str, Any]]


class _Context(NamedTuple):
    """What a part is measured with. In a sweep, only the run's own number of environments is.

    Attributes:
        vectorization: As it was given. auto measures all that there are.
        note: Shows a line on what is left out.
    """

    config: Config
    facts: EnvFacts
    effort: Effort
    clock: Clock
    in_sweep: bool
    vectorization: str
    note: Callable[[str], None]


def bench(
    part: str,
    configs: Config | Sequence[Config],
    effort: Effort,
    output: Output,
    clock: Clock = time.perf_counter,
    *,
    command: str = "",
    against: str | None = None,
) -> Results:
    """Measures a component of a run, or all of them. Results are shown as they come.

    Args:
        part: One of PARTS.
        configs: Options that have passed check(). Several, which differ in num_envs, are a sweep:
            then no other numbers of environments are measured.
        effort: Duration of each measurement.
        output: Shows results and progress.
        clock: Returns seconds.
        command: Command line, for the header.
        against: sb3, to compare training with Stable-Baselines3, or None.

    Returns:
        All figures, and rows for JSON: a header, a row for each measurement, and the bottleneck if
        training was measured.

    Raises:
        EnvError: The environment fails.
        PeerError: Stable-Baselines3 fails, or cannot do the same work.
    """
    configs = [configs] if isinstance(configs, Config) else list(configs)
    setups = [preview(config) for config in configs]
    if against is not None:  # before anything is measured
        for setup in setups:
            if line := refusal(setup.config, setup.facts):
                raise PeerError(line)
    results = Results([], [])
    for given, setup in zip(configs, setups, strict=True):
        with torch_threads(setup.config.threads), ExitStack() as ended:
            ended.enter_context(arithmetic(setup.config))
            run_peer = None
            if against is not None:  # first, so that it fails before anything is measured
                run_peer = ended.enter_context(sb3_peer(setup.config, longer(effort), clock))
            if not results.rows:
                results.rows.append(header(setup.config, effort, command, len(setups)))
                output.show(machine_line())
            in_sweep = len(setups) > 1
            one = _Measuring(
                setup.config, setup.facts, effort, output, clock, in_sweep, given.vectorization
            )
            one.measure(part, run_peer)
            results.figures.extend(one.figures)
            results.rows.extend(one.rows)
    return results


class _Measuring:
    """Measures the parts of one run.

    Attributes:
        figures: All figures.
        rows: Rows for JSON.
    """

    def __init__(
        self,
        config: Config,
        facts: EnvFacts,
        effort: Effort,
        output: Output,
        clock: Clock,
        in_sweep: bool,
        vectorization: str,
    ):
        self.config, self._facts, self._effort = config, facts, effort
        self._output, self._clock, self._in_sweep = output, clock, in_sweep
        self._vectorization = vectorization
        self._of = f", {_counted(config.num_envs)}" if in_sweep else ""
        self._prefix = f"with {_counted(config.num_envs)}: " if in_sweep else ""
        self._own = {"num_envs": config.num_envs} if in_sweep else {}
        self.figures: list[Figure] = []
        self.rows: list[dict[str, Any]] = []

    def measure(self, part: str, run_peer: Callable[[], float] | None) -> None:
        # Costs of techniques are not part of this run: only `bench learner` measures them.
        names = {"all": PARTS[:-2], "learner": ("learner", "switches")}.get(part, (part,))
        for name in names:
            if name != "train":
                self._output.begin(f"{name}{self._of}")
                self._add(f"{name} alone", figures := list(_MEASURES[name](self._context())))
                # `bench all` trains with what is faster alone, and names what helps the whole.
                if part == "env" and (advice := workers_advice(figures)):
                    self._output.show(advice)
        self.rows += [figure.row() for figure in self.figures]
        if part in ("train", "all"):
            self._train(with_levers=part == "all")
        if run_peer is not None:
            self._by_turns(run_peer)

    def _context(self) -> _Context:
        return _Context(
            self.config, self._facts, self._effort, self._clock, self._in_sweep,
            self._vectorization, self._output.warn,
        )  # fmt: skip

    def _add(self, title: str, figures: list[Figure]) -> list[Figure]:
        """Shows figures, and warns if their repeats differ. Returns them as they are recorded."""
        figures = [figure._replace(of=self._own | figure.of) for figure in figures]
        self.figures += figures
        self._output.show(table(f"{title}{self._of}", figures))
        if warning := spread_warning(figures):
            self._output.warn(warning)
        return figures

    def _by_turns(self, run_peer: Callable[[], float]) -> None:
        self._output.begin(f"train, in turns with sb3{self._of}")
        pair = measure_by_turns(self.config, longer(self._effort), run_peer, self._clock)
        pair = self._add("train, in turns", pair)
        ours, theirs = (figure.rate.median for figure in pair)
        differs = note(self.config)
        ratio = f"{self._prefix}fastdqn makes {ours / theirs:.2f} times the steps/s of sb3"
        self._output.show(f"{differs}\n{ratio}")
        last = {"sentence": ratio, "note": differs, **self._own}
        self.rows += [*(figure.row() for figure in pair), last]

    def _train(self, with_levers: bool) -> None:
        """Measures training by both clocks, names the bottleneck, and tries what may help."""
        config, alone = self.config, list(self.figures)
        plain = self._train_by_clock(synchronized=False)
        self._train_by_clock(synchronized=True)
        rate, tried = plain.figure.rate, []
        if with_levers:
            found = levers(config, plain.phases, plain.steps, alone)
            tried = list(try_levers(config, rate, found, self._measure_lever))
        bottleneck = self._prefix + sentence(config, plain.phases, rate, alone, tried)
        self._output.show(bottleneck)
        row = {"sentence": bottleneck, "tried": [each._asdict() for each in tried]}
        self.rows.append(row | self._own)

    def _measure_lever(self, config: Config) -> Rate:
        self._output.begin(
            f"train with {_counted(config.num_envs)} ({config.vectorization}), batches of "
            f"{config.batch_size}"
        )
        return measure_training(config, longer(self._effort), clock=self._clock).figure.rate

    def _train_by_clock(self, synchronized: bool) -> Trained:
        name = "synchronized" if synchronized else "plain"
        self._output.begin(f"train, {name} clock{self._of}")
        trained = measure_training(self.config, longer(self._effort), synchronized, self._clock)
        self._add(f"train, {name} clock", [trained.figure])
        # The synchronized clock completes the phases of the device, but not asynchronous env steps.
        residual = [p for p in residual_phases(self.config) if p == "env" or not synchronized]
        title = f"phases by the {name} clock"
        self._output.show(phase_table(title, trained.phases, trained.steps, residual))
        self._output.show(_around(trained))
        self.rows.append(
            trained.figure.row()
            | {
                "phase_seconds": trained.phases,
                "seconds": trained.seconds,
                "updates": trained.updates,
                "startup_seconds": trained.startup_seconds,
                "warm_up_seconds": trained.warm_up_seconds,
                "warm_up_steps": trained.warm_up_steps,
            }
        )
        return trained


def _counted(num_envs: int) -> str:
    return f"{num_envs} environment" + "s" * (num_envs > 1)


def append_rows(path: Path, rows: list[dict[str, Any]]) -> int:
    """Appends rows as JSON Lines. Returns the bytes that the file had before.

    Raises:
        WriteError: The file cannot be written. It is unchanged, and a new one is removed.
    """
    is_new = not path.exists()
    file = AppendFile(path)
    before = file.size
    try:
        with closing(file):
            file.write("".join(to_json(row) + "\n" for row in rows))
    except WriteError:
        if is_new:
            path.unlink(missing_ok=True)
        raise
    return before


def longer(effort: Effort) -> Effort:
    """Returns an effort for training loops, which vary more than single components."""
    return replace(effort, seconds=4 * effort.seconds, burn_in=4 * effort.burn_in)


def header(config: Config, effort: Effort, command: str, swept: int = 1) -> dict[str, Any]:
    """Returns the header: options, effort and machine. In a sweep, num_envs is in the rows."""
    measured = {
        "env_id": config.env_id, "preset": config.preset,
        "num_envs": config.num_envs, "batch_size": config.batch_size,
        "train_frequency": str(config.train_frequency), "hidden_sizes": config.hidden_sizes,
        "double": config.double, "dueling": config.dueling, "n_steps": config.n_steps,
        "buffer_size": config.buffer_size, "learner": config.learner, "capture": config.capture,
    }  # fmt: skip
    if swept > 1:
        del measured["num_envs"]
    how = {"command": command, "seconds": effort.seconds, "repeats": effort.repeats}
    machine = describe_machine(config.device, config.threads)
    return {"header": {**how, **measured, "load_average": load_average(), **machine}}


def _env(given: _Context) -> Iterator[Figure]:
    config = given.config
    lanes = {config.num_envs} if given.in_sweep else {config.num_envs, *LANES}
    how = replace(recipe(config), vectorization=given.vectorization)
    yield from measure_envs(
        how, sorted(lanes), given.effort, given.clock,
        (config.num_envs, config.env_batch_size), config.max_step_seconds, given.note,
    )  # fmt: skip


def _act(given: _Context) -> Iterator[Figure]:
    config, rest = given.config, (given.facts, given.effort, given.clock)
    yield from measure_acting(config, *rest)
    partial = lanes_of_a_call(config) < config.num_envs
    for num_envs in () if given.in_sweep else dict.fromkeys(_ACT_LANES):
        if partial or num_envs != config.num_envs:
            as_many = config.replace(num_envs=num_envs, env_batch_size=None)
            yield from measure_acting(as_many, *rest)


def _replay(given: _Context) -> Iterator[Figure]:
    yield from measure_replay(*given[:4])


def _switches(given: _Context) -> Iterator[Figure]:
    yield from measure_switches(*given[:4])


def _learner(given: _Context) -> Iterator[Figure]:
    config, facts, effort, clock, *_ = given
    for learner, capture in dict.fromkeys((("torch", "eager"), (config.learner, config.capture))):
        together = config.updates_per_launch if capture == config.capture else 1
        changed = config.replace(learner=learner, capture=capture, updates_per_launch=together)
        yield from measure_learner(changed, facts, BATCH_SIZES, effort, clock)
    upload = measure_upload(config, facts, effort, clock)
    if upload is not None:
        yield upload


_MEASURES: dict[str, Callable[[_Context], Iterator[Figure]]] = {
    "env": _env,
    "act": _act,
    "replay": _replay,
    "learner": _learner,
    "switches": _switches,
}


def _around(trained: Trained) -> str:
    """Describes start-up and warm-up times, and the share of time that phases cover."""
    before = ", ".join(f"{name} {took:.2f} s" for name, took in trained.startup_seconds.items())
    covered = sum(trained.phases.values()) / trained.seconds
    return (
        f"start-up: {before}, warm-up {trained.warm_up_seconds:.2f} s; the phases add up to "
        f"{100 * covered:.2f} % of the elapsed {trained.seconds:.2f} s"
    )
