"""Laps: phases partition the time of the loop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdqn.timing import Laps, process_age


class FakeClock:
    """Seconds that pass only when told to; whole numbers, so that sums are exact."""

    def __init__(self, now: float = 0.0):
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_each_lap_bills_the_time_since_the_lap_before():
    clock = FakeClock(1000.0)
    laps = Laps(clock)
    for name, seconds in (("act", 2.0), ("env", 5.0), ("act", 3.0), ("learn", 0.0)):
        clock.now += seconds
        laps.lap(name)
    assert laps.totals == {"act": 5.0, "env": 5.0, "learn": 0.0}


@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.sampled_from(["act", "env", "learn", "report"]), st.integers(0, 1000))),
)
def test_the_phases_add_up_to_the_time_that_passed(began, phases):
    clock = FakeClock(began)
    laps = Laps(clock)
    for name, seconds in phases:
        clock.now += seconds
        laps.lap(name)
    assert sum(laps.totals.values()) == clock.now - began


def test_time_after_the_last_lap_belongs_to_no_phase_yet():
    clock = FakeClock()
    laps = Laps(clock)
    clock.now = 2.0
    laps.lap("act")
    clock.now = 7.0
    assert laps.totals == {"act": 2.0}
    laps.lap("env")
    assert laps.totals == {"act": 2.0, "env": 5.0}


def test_a_restart_forgets_everything_before_it():
    clock = FakeClock()
    laps = Laps(clock)
    totals = laps.totals
    clock.now = 4.0
    laps.lap("build")
    clock.now = 9.0
    laps.restart()
    assert laps.totals == {}
    clock.now = 10.0
    laps.lap("act")
    assert laps.totals == {"act": 1.0}
    assert laps.totals is totals  # who reports may keep it


def test_the_age_of_the_process_grows_and_survives_a_system_that_does_not_say(monkeypatch):
    first = process_age()
    assert 0.0 < first <= process_age()

    def refuse(*_):
        raise OSError("no /proc here")

    monkeypatch.setattr("fastdqn.timing.open", refuse, raising=False)
    age = process_age()
    assert age == pytest.approx(first, abs=3600)
    assert age > 0.0
