"""WandbRun: metric rows to Weights & Biases, under the keys that they have everywhere."""

import json
import stat
from typing import Any

from fastdqn.files.atomic_write import WriteError, read_text, to_json, write_whole
from fastdqn.files.durable_write import exists
from fastdqn.files.open_folder import Where, lstat, path_of

# Of the run's folder: what names the run there, for a resumed one.
_FILE = "wandb.json"
_NAMES = ("id", "project", "entity")


class WandbRun:
    """A run of Weights & Biases, its files in folder/wandb; WANDB_MODE, WANDB_PROJECT and the rest
    of its variables say where it goes.

    A run that is open already, as one of the caller's is, gets the rows, under a global_step of
    their own, and is left open. Else one is begun here and finished by close(); where the folder
    names one, because this run is resumed, that one goes on.

    config  what is shown of the run's options
    Raises WriteError, one line, where it cannot be begun; ImportError without the extra.
    """

    def __init__(self, folder: Where, config: dict[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports] (an extra that few have)

        self.name, path = "Weights & Biases", path_of(folder)
        self._run: Any = getattr(wandb, "run", None)
        self._is_ours = self._run is None
        if (found := lstat(folder / "wandb")) is not None and not stat.S_ISDIR(found.st_mode):
            raise WriteError(f"cannot write {path / 'wandb'}: is not a folder, or a symbolic link")
        before = _read_names(folder / _FILE)
        try:
            if self._is_ours:
                again = {**before, "resume": "allow"} if before else {}
                self._run = wandb.init(dir=path, name=path.name, config=config, **again)
            else:
                self._run.config.update(config, allow_val_change=True)
        except Exception as error:  # of its own, of the network's, of the file system's
            said = " ".join(str(error).split()) or type(error).__name__
            raise WriteError(
                f"Weights & Biases did not begin: {said}; WANDB_MODE=offline needs no account"
            ) from None
        names = {name: getattr(self._run, name, None) for name in _NAMES}
        try:
            write_whole(folder / _FILE, to_json({n: v for n, v in names.items() if v}) + "\n")
        except WriteError:
            self.close()
            raise

    def write(self, step: int, row: dict[str, float]) -> None:
        if self._is_ours:
            self._run.log(row, step=step)
        else:  # its steps are the caller's, and it takes none behind the last
            self._run.log({**row, "global_step": step})

    def go_back(self, step: int) -> None:
        """Rows behind the last one that it has are dropped there: it has them already."""

    def close(self) -> None:
        if self._is_ours:
            self._run.finish()


def _read_names(path: Where) -> dict[str, str]:
    """What a resumed run was called; nothing for a new one. Raises WriteError, one line."""
    if not exists(path):
        return {}
    try:
        names = json.loads(read_text(path))
        if not all(isinstance(names.get(n, ""), str) for n in _NAMES) or "id" not in names:
            raise ValueError("no names")
    except (ValueError, AttributeError, RecursionError):
        raise WriteError(
            f"{path} does not name a run of Weights & Biases: delete it to begin a new one there"
        ) from None
    return {name: names[name] for name in _NAMES if name in names}
