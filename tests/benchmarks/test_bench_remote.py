"""The model of how far actors scale."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SUMMARY = {
    "total_steps": 1_000,
    "phase_seconds": {"actors": 6.0, "learn": 1.5, "store": 0.5},
    "actors": {
        "acting_seconds": 11.0, "waiting_seconds": 1.0, "transitions_produced": 1_100,
        "blocks": 11, "bytes": 33_000, "weights_bytes": 2_000,
    },
}  # fmt: skip


@pytest.fixture
def rates(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("remote_model").rates_of(SUMMARY)


def test_the_rates_are_those_of_parts_that_never_wait(rates):
    assert rates.actor == pytest.approx(100.0)
    assert rates.learner == pytest.approx(500.0)
    assert rates.saturation == pytest.approx(5.0)
    assert [rates.expected(n) for n in (1, 4, 5, 1_000)] == pytest.approx([100, 400, 500, 500])


def test_the_traffic_has_blocks_and_weights(rates):
    assert rates.block == pytest.approx(100.0)
    assert rates.traffic(2) == pytest.approx(200 * 30 + 2 * 2_000)
