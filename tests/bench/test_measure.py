"""Benchmarks of single components, with a fake clock."""

import itertools

import pytest

from fastdqn.bench import replay_speed
from fastdqn.bench.bottleneck import (
    Lever,
    _flags,
    largest_phases,
    levers,
    sentence,
    try_levers,
)
from fastdqn.bench.env_speed import measure_stream
from fastdqn.bench.learner_speed import measure_learner
from fastdqn.bench.policy_speed import measure_policy
from fastdqn.bench.repeats import Effort, Rate, by_turns, repeat
from fastdqn.bench.results import Figure, short, spread_warning
from fastdqn.bench.roofline import Ceilings, Work, count_flops, remedy, verdict
from fastdqn.bench.technique_costs import SWITCHES, _switched, measure_switches
from fastdqn.bench.training_speed import measure_training
from fastdqn.builders.agent import make_backup
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import EnvRecipe, EnvStream
from fastdqn.learning.bootstrap_targets import DoubleBackup, MaxBackup
from fastdqn.learning.learner import Learner
from fastdqn.learning.munchausen import MunchausenBackup
from fastdqn.replay import Replay
from helpers.measuring import (
    ACT_SECONDS,
    EFFORT,
    FACTS,
    LANES,
    SAMPLE_SECONDS,
    STEP_SECONDS,
    UPDATE_SECONDS,
    FakeClock,
    Slow,
    config,
)

# -- each its own


def test_an_environment_is_measured_alone_and_resets_are_not_steps(clock, slow_parts):
    figure = measure_stream(EnvStream(Slow(clock)), EFFORT, clock, num_envs=LANES)
    assert figure.rate.median == pytest.approx(0.9 * LANES / STEP_SECONDS, rel=0.05)


def test_the_learner_is_measured_alone(clock, slow_parts):
    updates, samples = list(measure_learner(config(), FACTS, [], EFFORT, clock))
    assert updates.rate.median == pytest.approx(1 / UPDATE_SECONDS, rel=0.05)
    assert samples.rate.median == pytest.approx(16 / UPDATE_SECONDS, rel=0.05)


def test_acting_is_measured_alone(clock, slow_parts):
    from fastdqn.builders import agent

    online, _ = agent.make_online(config(), FACTS)
    value = agent.make_learner(config(), online).value
    policy = agent.make_policy(config(), online, value, FACTS)
    calls, actions = measure_policy(policy, LANES, FACTS, EFFORT, clock, {})
    assert calls.rate.median == pytest.approx(1 / ACT_SECONDS, rel=0.05)
    assert actions.rate.median == pytest.approx(LANES / ACT_SECONDS, rel=0.05)


def test_sampling_is_measured_alone(clock, slow_parts):
    from fastdqn.bench.synthetic_data import fill_replay
    from fastdqn.builders import agent

    replay = agent.make_replay(config(), FACTS)
    fill_replay(replay, FACTS, 50)
    samples, rows, moved = replay_speed.measure_sampling(replay, 16, EFFORT, clock)
    assert samples.rate.median == pytest.approx(1 / SAMPLE_SECONDS, rel=0.05)
    assert rows.rate.median == pytest.approx(16 / SAMPLE_SECONDS, rel=0.05)
    assert moved.rate.median == pytest.approx(16 * 32 / SAMPLE_SECONDS, rel=0.05)


@pytest.mark.parametrize("synchronized", [False, True])
def test_phases_of_training_add_up_to_the_elapsed_time(clock, slow_parts, synchronized):
    envs = Slow(clock)
    trained = measure_training(config(), EFFORT, synchronized, clock, envs)
    calls, updates = trained.steps / (0.9 * LANES), trained.updates
    assert updates == pytest.approx(trained.steps / 4, abs=3)
    assert trained.phases["env"] == pytest.approx(calls * STEP_SECONDS, rel=0.05)
    assert trained.phases["learn"] == pytest.approx(updates * UPDATE_SECONDS, rel=0.05)
    assert trained.phases["act"] == pytest.approx(calls * ACT_SECONDS, rel=0.05)
    assert trained.phases["sample"] == pytest.approx(updates * SAMPLE_SECONDS, rel=0.05)
    assert sum(trained.phases.values()) == pytest.approx(trained.seconds, rel=1e-6)
    per_step = trained.seconds / trained.steps
    assert trained.figure.rate.median == pytest.approx(1 / per_step, rel=0.05)
    assert trained.warm_up_steps >= 100


def never(*_, **__):
    raise AssertionError("it is none of this benchmark's business")


def forbid(monkeypatch, *methods) -> None:
    for owner, name in methods:
        monkeypatch.setattr(owner, name, never)


LEARNING = ((Learner, "update"), (Learner, "prepare"))
STEPPING = ((EnvStream, "__init__"), (EnvRecipe, "make"))
REPLAYING = ((Replay, "append"), (Replay, "sample"))


def test_the_environment_benchmark_has_no_learner_and_no_replay(clock, monkeypatch):
    forbid(monkeypatch, *LEARNING, *REPLAYING)
    assert measure_stream(EnvStream(Slow(clock)), EFFORT, clock).rate.calls > 0


def test_the_learner_benchmark_has_no_environment_and_no_replay(monkeypatch):
    resolved = config()
    forbid(monkeypatch, *STEPPING, *REPLAYING)
    assert len(list(measure_learner(resolved, FACTS, [], Effort(0.001, 1, 0.0)))) == 2


def test_the_replay_benchmark_has_no_environment_and_no_learner(monkeypatch):
    resolved = config()
    forbid(monkeypatch, *STEPPING, *LEARNING)
    figures = replay_speed.measure_replay(resolved, FACTS, Effort(0.001, 1, 0.0))
    assert len(figures) == 12
    assert {f.of.get("sampler") for f in figures} == {"uniform", "prioritized", None}


@pytest.mark.parametrize(
    ("changes", "backup"),
    [
        ({}, DoubleBackup),
        ({"double": False}, MaxBackup),
        ({"munchausen": True}, MunchausenBackup),
    ],
)
def test_a_technique_replaces_the_backup_of_the_run(changes, backup):
    for resolved in (config(), config(munchausen=True), config(double=False)):
        assert type(make_backup(_switched(resolved, changes))) is backup


@pytest.mark.slow
def test_each_technique_is_measured_beside_the_plain_update(monkeypatch):
    resolved = config(noisy=True)
    forbid(monkeypatch, *STEPPING)
    figures = measure_switches(resolved, FACTS, Effort(0.001, 2, 0.0))
    assert [figure.of["switch"] for figure in figures] == list(SWITCHES)
    assert figures[0].of["ratio"] == 1.0
    assert all(figure.of["ratio"] > 0 for figure in figures)


def test_turns_are_taken_repeat_by_repeat():
    clock, order = FakeClock(), []

    def costs(name, seconds):
        def call():
            order.append(name)
            clock.spend(seconds)

        return call

    rates = by_turns({"a": costs("a", 0.5), "b": costs("b", 0.25)}, Effort(0.5, 2, 0.0), clock)
    assert (rates["a"].median, rates["b"].median) == (2.0, 4.0)
    assert [name for name, _ in itertools.groupby(order)] == ["a", "b", "a", "b"]


# -- repeat


def test_a_rate_is_the_median_of_its_repeats_and_counts_items(clock):
    durations = iter([0.1] * 3 + [0.2] * 3 + [0.4] * 2 + [0.8] * 99)

    def call() -> int:
        clock.spend(next(durations))
        return 5

    # Burn-in takes three calls; then repeats of at least half a second.
    rate = repeat(call, Effort(0.5, 3, 0.25), clock)
    assert (rate.most, rate.median) == (pytest.approx(25), pytest.approx(12.5))
    assert rate.least == pytest.approx(5 / 0.8)


class Queue:
    """Calls that only launch work: 10 us each, 2 ms until it is finished."""

    def __init__(self, clock: FakeClock):
        self.clock, self.waiting = clock, 0.0

    def __call__(self) -> None:
        self.clock.spend(1e-5)
        self.waiting += 2e-3

    def finish(self) -> None:
        self.clock.spend(self.waiting)
        self.waiting = 0.0


def test_launches_do_not_run_ahead_of_the_clock(clock):
    queue, effort = Queue(clock), Effort(0.5, 3, 0.2)
    rate = repeat(queue, effort, clock, queue.finish)
    assert rate.median == pytest.approx(1 / 2.01e-3, rel=1e-6)
    assert clock.now - 100.0 < 1.5 * effort.total
    assert queue.waiting == 0.0


def test_a_rate_in_another_unit():
    assert Rate(2.0, 1.0, 3.0, 7).scaled(10) == (20.0, 10.0, 30.0, 7)


# -- sentence


def figures() -> list[Figure]:
    def rate(median) -> Rate:
        return Rate(median, median, median, 1)

    learner = [
        Figure(
            "learner",
            "learner_samples_per_second",
            rate(n),
            {
                "batch_size": b,
                "learner": "torch",
                "capture": c,
            },
        )
        for b, n, c in (
            (64, 64_000, "eager"),
            (512, 512_000, "eager"),
            (2048, 520_000, "eager"),
            (2048, 9e9, "compile"),
        )
    ]
    envs = [
        Figure("env", "env_steps_per_second", rate(n), {"num_envs": e, "vectorization": v})
        for e, v, n in ((8, "sync", 10_000), (64, "native", 2_100_000))
    ]
    act = [
        Figure("act", "act_actions_per_second", rate(n), {"num_envs": e})
        for e, n in ((1, 10_000), (64, 500_000))
    ]
    return [*learner, *envs, *act]


def own_run(**changes) -> Config:
    """Returns options with 64 samples per step, like figures()."""
    return config().replace(batch_size=64, train_frequency=1, learner="torch", **changes)


RATE = Rate(1000.0, 980.0, 1020.0, 1)


def tries(config, phases, rates):
    """Returns the levers that were tried, with these rates by changed number or batch size."""

    def measure(changed):
        if changed == config:
            return RATE
        key = changed.num_envs if changed.num_envs != config.num_envs else changed.batch_size
        median = rates.get(key, 1000.0)
        return Rate(median, 0.98 * median, 1.02 * median, 1)

    found = levers(config, phases, 1000, figures())
    return list(try_levers(config, RATE, found, measure))


def said(phases, rates, rate=RATE):
    run = own_run(vectorization="sync")
    tried = tries(run, phases, rates)
    return sentence(run, phases, rate, figures(), tried), tried


def test_only_what_was_tried_and_helped_is_advised():
    line, tried = said({"learn": 1.0, "env": 0.25}, {512: 3000.0})
    assert line == (
        "the learner takes about 80 %: --batch-size 512 --train-frequency 8, with the same samples "
        "per step, gives about 3x (2.9 to 3.1x); 8 environments alone make about 10 k steps/s"
    )
    # The number of environments is tried whatever the largest phase is.
    assert sorted(each.flags.split()[0] for each in tried) == ["--batch-size", "--num-envs"]


@pytest.mark.parametrize("phase", ["learn", "env", "act", "store"])
def test_more_environments_are_tried_for_every_bottleneck(phase):
    line, tried = said({phase: 0.9, "sample": 0.1}, {64: 5000.0})
    assert "--num-envs 64 gives about 5x (4.8 to 5.2x)" in line
    assert [each.helps for each in tried if each.flags == "--num-envs 64"] == [True]


def test_a_lever_that_does_not_help_is_not_advised():
    line, tried = said({"learn": 1.0, "env": 0.25}, {512: 1050.0, 64: 800.0})
    assert not any(each.helps for each in tried)
    assert "nothing that was tried is surely faster (" in line
    assert "--num-envs 64 gives about 0.8x (0.77 to 0.83x)" in line


def test_a_speedup_within_the_spread_of_repeats_does_not_help():
    wide = Rate(1000.0, 500.0, 1500.0, 1)
    found = [Lever({"num_envs": 64}, "", 2.0)]
    (tried,) = try_levers(own_run(), wide, found, lambda _: Rate(1400.0, 1300.0, 1500.0, 1))
    assert not tried.helps


def test_a_baseline_that_changed_meanwhile_counts_as_spread():
    """The lever is twice as fast as the first baseline, which another program slowed."""
    again = Rate(2100.0, 2000.0, 2200.0, 1)
    found = [Lever({"num_envs": 64}, "", 2.0)]

    def measure(changed):
        return again if changed.num_envs == own_run().num_envs else Rate(2000.0, 1950.0, 2050.0, 1)

    (tried,) = try_levers(own_run(), RATE, found, measure)
    assert not tried.helps
    assert tried.speedup == pytest.approx(2000 / 1550)
    assert tried.between == pytest.approx((1950 / 2200, 2050 / 980))


def test_the_rate_of_environments_alone_does_not_contradict_that_of_the_loop():
    fast = Rate(20_000.0, 19_000.0, 21_000.0, 1)  # 8 environments alone make 10 k
    line = sentence(own_run(vectorization="sync"), {"env": 1.0}, fast, figures(), [])
    assert "alone" not in line


def test_a_lever_that_cannot_run_is_left_out():
    def fails(config):
        raise ConfigError(["no"])

    assert list(try_levers(own_run(), RATE, [Lever({"num_envs": 64}, "", 2.0)], fails)) == []


def test_phases_within_the_measured_spread_tie():
    phases = {"learn": 0.50, "env": 0.45, "act": 0.05}
    assert largest_phases(phases, 0.02) == ["learn"]
    assert largest_phases(phases, 0.15) == ["learn", "env"]
    line, _ = said(phases, {}, Rate(1000.0, 920.0, 1070.0, 1))
    assert line.startswith("the learner and the environment tie, with about 50 % each: ")


def test_without_measurements_of_parts_the_other_command_is_named():
    line = sentence(own_run(), {"learn": 1.0}, RATE, [], [])
    assert line == "the learner takes about 100 %: use `fastdqn bench all` to try alternatives"


@pytest.mark.parametrize(
    ("changes", "of", "flags"),
    [
        # From partial batches to whole ones, and the other way.
        ({"vectorization": "async", "env_batch_size": 4},
         {"num_envs": 8, "vectorization": "sync"}, "--vectorization sync --env-batch-size None"),
        ({}, {"num_envs": 8, "vectorization": "async", "env_batch_size": 4},
         "--vectorization async --env-batch-size 4"),
        # Halves that take turns are halves: they do not wait for all.
        ({"vectorization": "workers", "env_batch_size": 4, "double_buffering": True},
         {"num_envs": 8, "vectorization": "workers"},
         "--env-batch-size None --no-double-buffering"),
        # Not those already set.
        ({"vectorization": "sync"}, {"num_envs": 8, "vectorization": "sync"}, None),
    ],
)  # fmt: skip
def test_levers_only_contain_valid_options(changes, of, flags, monkeypatch):
    monkeypatch.setattr("fastdqn.bench.env_speed.usable_cores", lambda: 2)
    resolved = own_run(**changes)
    assert resolved.problems() == []
    envs = [Figure("env", "env_steps_per_second", Rate(2.1e6, 2.1e6, 2.1e6, 1), of)]
    found = levers(resolved, {"env": 0.8, "learn": 0.2}, 1000, envs)
    named = [_flags(resolved, each.changes) for each in found if "vectorization" in each.changes]
    assert named == ([] if flags is None else [flags])
    small = resolved.replace(buffer_size=64)  # too small for 64 environments
    assert all("num_envs" not in each.changes for each in levers(small, {"env": 1.0}, 1000, envs))


def test_more_environments_of_a_run_of_two_halves_are_two_halves():
    halves = {"vectorization": "workers", "env_batch_size": 4, "double_buffering": True}
    (lever,) = levers(own_run(**halves), {"env": 1.0}, 1000, [])
    assert lever.changes == {"num_envs": 64, "env_batch_size": 32}


def test_levers_of_an_eager_run_ignore_compiled_updates():
    def batch(config):
        found = levers(config, {"learn": 1.0}, 1000, figures())
        return [each.changes["batch_size"] for each in found if "batch_size" in each.changes]

    assert batch(own_run()) == [512]
    assert batch(own_run(capture="compile")) == [2048]


def test_a_wide_spread_of_repeats_is_a_warning():
    steady = Figure("act", "act_calls_per_second", Rate(100.0, 90.0, 110.0, 1), {"num_envs": 8})
    shaky = Figure("act", "act_calls_per_second", Rate(100.0, 80.0, 110.0, 1), {"num_envs": 1})
    assert spread_warning([steady]) is None
    warning = spread_warning([steady, shaky])
    assert warning is not None
    assert warning.startswith("warning: repeats of 1 of 2 results differ by more than 25 %")
    assert "act_calls_per_second (num_envs 1) by 30 %" in warning


def test_numbers_are_short():
    assert [short(n) for n in (2_150_000.0, 999.0, 1_500.0, 7e9)] == [
        "2.15 M", "999", "1.5 k", "7 G",
    ]  # fmt: skip


# -- ceilings


@pytest.mark.slow
def test_products_are_counted_as_two_n_cubed():
    import torch

    a = torch.ones(8, 8)
    assert count_flops(lambda: a @ a) == 2 * 8**3


@pytest.mark.parametrize(
    ("bound", "is_gpu", "is_fused", "says"),
    [
        ("overhead-bound", False, False, "--learner fused"),
        ("overhead-bound", False, True, "increase --batch-size"),
        ("launch-bound", True, False, "--capture graph"),
        ("compute-bound", False, True, "a smaller network"),
        ("compute-bound", True, False, "--precision bf16"),
        ("memory-bound", False, True, "smaller observations"),
    ],
)
def test_a_verdict_names_what_can_work_on_the_device(bound, is_gpu, is_fused, says):
    advice = remedy(bound, is_gpu, is_fused)
    assert advice is not None
    assert advice.startswith(says)
    assert is_gpu or "bf16" not in advice
    assert not is_fused or "fused" not in advice


@pytest.mark.parametrize(
    ("work", "busy", "is_gpu", "says"),
    [
        (Work(1000, 10), 0.2, True, "launch-bound"),
        (Work(1000, 10), 0.2, False, "overhead-bound"),
        (Work(10, 1), 0.9, False, "overhead-bound"),
        (Work(800, 100), 0.9, True, "compute-bound"),
        (Work(100, 800), 0.9, True, "memory-bound"),
        (None, 0.2, False, "overhead-bound"),
        (Work(10, 1), 0.9, True, "latency-bound"),
        (None, 0.9, True, "device-bound"),
        (None, 0.9, False, "operator-bound"),
        # The shares are the numbers over 1,000. Each of these is within a fifth of a limit.
        (Work(800, 700), 0.9, True, "compute-bound or memory-bound"),
        (Work(700, 800), 0.9, True, "memory-bound or compute-bound"),
        (Work(500, 800), 0.9, True, "memory-bound"),
        (Work(300, 100), 0.9, False, "overhead-bound or compute-bound"),
        (Work(800, 100), 0.55, True, "compute-bound or launch-bound"),
        (None, 0.45, False, "overhead-bound or operator-bound"),
    ],
)
def test_the_verdict(work, busy, is_gpu, says):
    assert verdict(work, 1.0, Ceilings(1000.0, 1000.0), busy, is_gpu) == says
