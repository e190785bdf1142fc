"""Available memory, on machines and in containers of both control group versions."""

from pathlib import Path

import pytest

from fastdqn.system import available_memory
from fastdqn.system.available_memory import available_bytes

GIB = 1 << 30
SPARE = available_memory._SPARE_BYTES


def system(root: Path, files: dict[str, object]) -> Path:
    """Returns a root folder with files as shown by the kernel."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def meminfo(available: int) -> dict[str, object]:
    return {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable:  {available // 1024} kB"}


V2 = {**meminfo(64 * GIB), "proc/self/cgroup": "0::/pod/job"}
V1 = {**meminfo(64 * GIB), "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/docker/job"}


def test_a_machine_without_groups_has_what_it_has_available(tmp_path):
    assert available_bytes(system(tmp_path, meminfo(8 * GIB))) == 8 * GIB - SPARE


def test_a_system_that_says_nothing_has_no_known_limit(tmp_path):
    assert available_bytes(tmp_path) is None


def test_less_than_the_spare_part_is_nothing_not_a_negative_number(tmp_path):
    assert available_bytes(system(tmp_path, meminfo(SPARE // 2))) == 0


@pytest.mark.parametrize("group", ["", "pod/", "pod/job/"])
def test_version_2_takes_the_tightest_group_on_the_way_up(tmp_path, group):
    files = {
        f"sys/fs/cgroup/{folder}memory.{name}": value
        for folder in ("", "pod/", "pod/job/")
        for name, value in (("max", "max"), ("current", GIB))
    }
    files[f"sys/fs/cgroup/{group}memory.max"] = 4 * GIB
    assert available_bytes(system(tmp_path, {**V2, **files})) == 3 * GIB - SPARE


def test_version_1_reads_the_memory_controller(tmp_path):
    files = {
        "sys/fs/cgroup/memory/docker/job/memory.limit_in_bytes": 4 * GIB,
        "sys/fs/cgroup/memory/docker/job/memory.usage_in_bytes": GIB,
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 30 * GIB,
    }
    assert available_bytes(system(tmp_path, {**V1, **files})) == 3 * GIB - SPARE


def test_a_group_that_a_container_shows_as_its_root_is_found(tmp_path):
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 4 * GIB,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 0,
    }
    assert available_bytes(system(tmp_path, {**V1, **files})) == 4 * GIB - SPARE


def test_the_machine_counts_where_the_group_allows_more(tmp_path):
    files = {"sys/fs/cgroup/memory.max": 500 * GIB, "sys/fs/cgroup/memory.current": 0}
    assert available_bytes(system(tmp_path, {**V2, **files})) == 64 * GIB - SPARE


@pytest.mark.parametrize(
    ("base", "names", "cached"),
    [
        (V2, ("memory.max", "memory.current"), "inactive_file"),
        (V1, ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"), "total_inactive"),
    ],
)
def test_file_cache_that_can_be_dropped_is_no_use_of_memory(tmp_path, base, names, cached):
    limit, use = (f"sys/fs/cgroup/{name}" for name in names)
    key = cached if cached == "inactive_file" else "inactive_file 7\ntotal_inactive_file"
    stat = str(Path(use).parent / "memory.stat")
    files = {limit: 4 * GIB, use: 4 * GIB, stat: f"anon 5\n{key} {3 * GIB}"}
    assert available_bytes(system(tmp_path, {**base, **files})) == 3 * GIB - SPARE
