"""Laps: phases partition the time of the loop. Cores: how many a process may keep busy."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdqn.system.cgroups import ROOT
from fastdqn.system.cpu_limits import cpu_quota, thread_limit, usable_cores
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


@pytest.mark.slow
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


def test_a_phase_lasts_until_the_next_one_begins():
    clock = FakeClock(1000.0)
    laps = Laps(clock)
    for name, seconds in (("act", 2.0), ("env", 5.0), ("env", 1.0), ("act", 3.0)):
        laps.enter(name)
        clock.now += seconds
    assert laps.totals == {"act": 2.0, "env": 6.0}  # the last one has not ended
    laps.leave()
    assert laps.totals == {"act": 5.0, "env": 6.0}
    clock.now += 4.0
    laps.enter("save")  # nothing is lost: the time between belongs to it
    laps.leave()
    laps.leave()
    assert laps.totals == {"act": 5.0, "env": 6.0, "save": 4.0}


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


# -- cores


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def container(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def version_2(root, **limits):
    files = {f"sys/fs/cgroup/{g.replace('_', '/')}/cpu.max": text for g, text in limits.items()}
    return container(root, {"proc/self/cgroup": "0::/pod/job", **files})


@pytest.mark.parametrize(
    ("limit", "quota", "cores"),
    [
        ("max 100000", None, 8),
        ("400000 100000", 4.0, 4),
        ("150000 100000", 1.5, 1),  # a second thread would get half of a core
        ("50000 100000", 0.5, 1),
        ("1600000 100000", 16.0, 8),
        ("nonsense", None, 8),
        ("", None, 8),
    ],
)
def test_a_quota_of_processor_time_limits_the_cores(tmp_path, eight_cores, limit, quota, cores):
    root = version_2(tmp_path, pod_job=limit)
    assert cpu_quota(root) == quota
    assert usable_cores(root) == cores


def test_the_tightest_group_on_the_way_up_counts(tmp_path, eight_cores):
    root = version_2(tmp_path, pod_job="max 100000", pod="300000 100000")
    assert usable_cores(root) == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("250000", 2)])
def test_version_1_has_quota_and_period_in_two_files(tmp_path, eight_cores, quota, cores):
    files = {
        "proc/self/cgroup": "4:memory:/docker/job\n3:cpu,cpuacct:/docker/job",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": quota,  # a container sees its own group as the root
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    }
    assert usable_cores(container(tmp_path, files)) == cores


def test_without_groups_the_cores_are_those_of_the_process(tmp_path, eight_cores):
    assert usable_cores(tmp_path) == 8


@pytest.mark.parametrize(
    ("text", "limit"), [("3", 3), ("4,2", 4), (" 2 ", 2), ("0", None), ("x", None), ("", None)]
)
def test_omp_num_threads_limits_threads(monkeypatch, text, limit):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert thread_limit() == limit
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert thread_limit() is None


def test_the_machine_of_this_test_has_cores():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert ROOT.is_dir()
