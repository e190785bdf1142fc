"""Worker processes are recommended where they pay, by what a run or `bench env` has measured."""

import pytest

from fastdqn import Config
from fastdqn.bench.env_speed import workers_advice as advice_of_figures
from fastdqn.bench.repeats import Rate
from fastdqn.bench.results import Figure
from fastdqn.config.derived_facts import workers_advice

PHASES = {"env": 60.0, "learn": 40.0}  # of 100,000 steps: 0.6 ms each


@pytest.mark.parametrize(
    ("changes", "phases", "steps", "cores", "advises"),
    [
        ({}, PHASES, 100_000, 4, True),
        ({"vectorization": "async"}, PHASES, 100_000, 4, False),
        ({"num_envs": 4}, PHASES, 100_000, 4, False),
        ({}, PHASES, 100_000, 1, False),
        ({}, {"env": 30.0, "learn": 70.0}, 100_000, 4, False),
        ({}, PHASES, 100_000_000, 4, False),  # a step is too short
        ({}, {}, 0, 4, False),
    ],
)
def test_a_run_recommends_workers_where_stepping_in_python_takes_long(
    changes, phases, steps, cores, advises
):
    config = Config(vectorization="sync", num_envs=64).replace(**changes)
    line = workers_advice(config, phases, steps, cores)
    assert (line is not None) == advises
    if advises:
        assert line == (
            "stepping the environments took 60% of the time: --vectorization workers --workers 4 "
            "steps them on 4 cores"
        )


def test_bench_env_recommends_workers_where_they_were_faster():
    def figures(**rates):
        return [
            Figure("env", "x", Rate(rate, rate, rate, 1), {"vectorization": name, "num_envs": n})
            for n in (1, 64)
            for name, rate in rates.items()
        ]

    assert advice_of_figures(figures(sync=10.0, workers=18.0, native=17.0)) == (
        "with 64 environments workers is 1.8 times as fast as sync: use --vectorization workers"
    )
    for rates in ({"sync": 10.0, "workers": 11.0}, {"workers": 18.0}, {"sync": 1.0, "native": 2.0}):
        assert advice_of_figures(figures(**rates)) is None
    assert advice_of_figures(figures(sync=10.0, workers=18.0, native=27.0)) is None


def test_bench_env_recommends_no_workers_whose_repeats_overlap_those_of_another():
    def figures(sync):
        workers = Rate(9_000.0, 7_100.0, 9_900.0, 1)
        named = {"sync": sync, "workers": workers}
        of = {"num_envs": 64}
        return [Figure("env", "x", rate, of | {"vectorization": n}) for n, rate in named.items()]

    assert advice_of_figures(figures(Rate(5_900.0, 4_800.0, 8_300.0, 1))) is None
    assert advice_of_figures(figures(Rate(5_900.0, 4_800.0, 7_000.0, 1)))
