"""Linux control groups, versions 1 and 2: the folders that hold a container's limits."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def groups(controller: str, root: Path = ROOT) -> Iterator[tuple[int, Path]]:
    """Yields (version, folder) of the process's control group and each parent.

    Each may set a limit for a controller such as memory or cpu. The lowest one applies.
    """
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, base = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, base = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            yield version, folder
            if folder == base:
                break


def text_of(path: Path) -> str:
    """Returns the text of a file, or '' if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
