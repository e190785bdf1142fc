"""WandbRun: logs metric rows to Weights & Biases."""

import json
import stat
from typing import Any

from fastdqn.files.atomic_write import WriteError, read_text, to_json, write_whole
from fastdqn.files.durable_write import exists
from fastdqn.files.open_folder import Where, lstat, path_of
from fastdqn.logging.metric_sinks import MetricsSink

# File in the run folder with the id of the W&B run, for resume.
_FILE = "wandb.json"
_NAMES = ("id", "project", "entity")


class WandbRun(MetricsSink):
    """Metric sink that logs to Weights & Biases. Its variables, such as WANDB_MODE, apply.

    If a W&B run is already active, rows are logged to it with a global_step, and it stays open.
    Otherwise a run is started, and close() finishes it. A resumed run continues the W&B run that
    its folder names.

    Args:
        folder: Run folder. W&B writes its files to folder/wandb.
        config: Options to show.

    Raises:
        WriteError: The W&B run cannot be started.
        ImportError: The extra is not installed.
    """

    def __init__(self, folder: Where, config: dict[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports] (an optional extra)

        self.name, path = "Weights & Biases", path_of(folder)
        self._run: Any = getattr(wandb, "run", None)
        self._is_ours = self._run is None
        if (found := lstat(folder / "wandb")) is not None and not stat.S_ISDIR(found.st_mode):
            raise WriteError(
                f"cannot write {path / 'wandb'}: it is not a folder, or is a symbolic link"
            )
        before = _read_names(folder / _FILE)
        try:
            if self._is_ours:
                again = {**before, "resume": "allow"} if before else {}
                self._run = wandb.init(dir=path, name=path.name, config=config, **again)
            else:
                self._run.config.update(config, allow_val_change=True)
        except Exception as error:  # errors of wandb, the network and the file system
            reason = " ".join(str(error).split()) or type(error).__name__
            raise WriteError(
                f"Weights & Biases did not start: {reason}. WANDB_MODE=offline needs no account"
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
        else:  # the caller sets the steps of this run, and they must not decrease
            self._run.log({**row, "global_step": step})

    def go_back(self, step: int) -> None:
        """Does nothing: W&B drops rows whose steps it already has."""

    def close(self) -> None:
        if self._is_ours:
            self._run.finish()


def _read_names(path: Where) -> dict[str, str]:
    """Returns the id, project and entity of the W&B run, empty for a new one.

    Raises:
        WriteError: The file is not valid.
    """
    if not exists(path):
        return {}
    try:
        names = json.loads(read_text(path))
        if not all(isinstance(names.get(n, ""), str) for n in _NAMES) or "id" not in names:
            raise ValueError("no id")
    except (ValueError, AttributeError, RecursionError):
        raise WriteError(
            f"{path} does not name a Weights & Biases run: delete it to start a new one"
        ) from None
    return {name: names[name] for name in _NAMES if name in names}
