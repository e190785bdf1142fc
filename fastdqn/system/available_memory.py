"""Memory that this process may still allocate, container limits included."""

from pathlib import Path

from fastdqn.system.cgroups import groups, text_of

# Reserve for Python, torch and the environments. Not tuned.
_SPARE_BYTES = 512 << 20


def available_bytes(root: Path = Path("/")) -> int | None:
    """Returns bytes available for a buffer, or None if the system does not report them.

    The minimum of the machine's available memory and the rest of each control group limit.
    """
    rooms = [_machine(root), *_cgroups(root)]
    known = [room for room in rooms if room is not None]
    return max(0, min(known) - _SPARE_BYTES) if known else None


def _machine(root: Path) -> int | None:
    for line in text_of(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _cgroups(root: Path) -> list[int | None]:
    """Returns limit minus usage of the process's control group and each of its parents."""
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        2: ("memory.max", "memory.current"),
    }
    return [_room(folder, *names[version]) for version, folder in groups("memory", root)]


def _room(group: Path, limit: str, use: str) -> int | None:
    allowed, used = text_of(group / limit).strip(), text_of(group / use).strip()
    if not (allowed.isdigit() and used.isdigit()):
        return None
    return int(allowed) - max(0, int(used) - _reclaimable(group))


def _reclaimable(group: Path) -> int:
    """Returns bytes of file cache, which count as usage but are dropped when needed."""
    values = dict(line.split() for line in text_of(group / "memory.stat").splitlines())
    return int(values.get("total_inactive_file") or values.get("inactive_file") or 0)
