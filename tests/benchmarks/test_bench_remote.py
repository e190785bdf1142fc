"""The model of how far actors scale."""

import pytest

from remote_model import rates_of

SUMMARY = {
    "total_steps": 1_000,
    "phase_seconds": {"actors": 6.0, "learn": 1.5, "store": 0.5},
    "actors": {
        "acting_seconds": 11.0, "waiting_seconds": 1.0, "transitions_produced": 1_100,
        "blocks": 11, "bytes": 33_000, "weights_bytes": 2_000,
    },
}  # fmt: skip


def test_the_rates_are_those_of_an_actor_that_never_waits_and_of_a_learner_that_never_does():
    rates = rates_of(SUMMARY)
    assert rates.actor == pytest.approx(100.0)
    assert rates.learner == pytest.approx(500.0)
    assert rates.saturation == pytest.approx(5.0)
    assert [rates.expected(n) for n in (1, 4, 5, 1_000)] == pytest.approx([100, 400, 500, 500])


def test_the_traffic_has_blocks_and_weights():
    rates = rates_of(SUMMARY)
    assert rates.block == pytest.approx(100.0)
    assert rates.traffic(2) == pytest.approx(200 * 30 + 2 * 2_000)
