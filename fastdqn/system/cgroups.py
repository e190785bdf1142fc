"""Control groups: the folders in which Linux shows a container's limits, in versions 1 and 2."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def groups(controller: str, root: Path = ROOT) -> Iterator[tuple[int, Path]]:
    """(version, folder) of this process's group and each of its parents, where a controller such
    as memory or cpu may set a limit; the least of them holds."""
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
    """A file's text; '' where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
