"""How much memory this process may still take, containers' limits included."""

from pathlib import Path

from fastdqn.system.cgroups import groups, text_of

# Never plan with the last of it: Python, torch and the environments live there too. Ours, untuned.
_SPARE_BYTES = 512 << 20


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes free for a buffer; None where the system does not say.

    The least of what the machine has available and what each cgroup limit leaves.
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
    """Limit less use of this process's group and its parents, in version 2 and version 1."""
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
    """Bytes of file cache that the system drops when they are needed; they count as use."""
    values = dict(line.split() for line in text_of(group / "memory.stat").splitlines())
    return int(values.get("total_inactive_file") or values.get("inactive_file") or 0)
