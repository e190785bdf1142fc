"""WandbRun: metric rows to Weights & Biases, under the keys that they have everywhere."""

import stat
from typing import Any

from fastdqn.record.files import WriteError
from fastdqn.record.place import Where, lstat, path_of


class WandbRun:
    """A run of Weights & Biases, its files in folder/wandb; WANDB_MODE, WANDB_PROJECT and the rest
    of its variables say where it goes.

    config  what is shown of the run's options
    Raises WriteError, one line, where it cannot be begun; ImportError without the extra.
    """

    def __init__(self, folder: Where, config: dict[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports] (an extra that few have)

        self.name, path = "Weights & Biases", path_of(folder)
        if (found := lstat(folder / "wandb")) is not None and not stat.S_ISDIR(found.st_mode):
            raise WriteError(f"cannot write {path / 'wandb'}: is not a folder, or a symbolic link")
        try:
            self._run = wandb.init(dir=path, name=path.name, config=config)
        except Exception as error:  # of its own, of the network's, of the file system's
            said = " ".join(str(error).split()) or type(error).__name__
            raise WriteError(
                f"Weights & Biases did not begin: {said}; WANDB_MODE=offline needs no account"
            ) from None

    def write(self, step: int, row: dict[str, float]) -> None:
        self._run.log(row, step=step)

    def go_back(self, step: int) -> None:
        """A resumed run is another one there: nothing has been written behind step."""

    def close(self) -> None:
        self._run.finish()
