"""The doctor command: checks the machine, and the files and checkpoints of a run."""

import importlib.util
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from fastdqn.checkpoints.checked_read import read_latest
from fastdqn.checkpoints.loader import checkpoint_names, problem_of
from fastdqn.checkpoints.network_weights import load_weights
from fastdqn.checkpoints.table_weights import is_table, load_table
from fastdqn.cli.next_command import remedy
from fastdqn.config.schema import ConfigError
from fastdqn.files.atomic_write import read_text
from fastdqn.files.run_folder import HandedIn, processor, read_config, read_handed_in
from fastdqn.files.run_lock_file import holder
from fastdqn.kernels.jit import cache_folder
from fastdqn.system.available_memory import available_bytes
from fastdqn.system.cpu_limits import cpu_quota, usable_cores
from fastdqn.tabular.files import is_table_run, read_table_config
from fastdqn.text import printable

_PACKAGES = ("fastdqn", "torch", "gymnasium", "numpy", "numba", "safetensors")
_SETTINGS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE",
    "NUMBA_NUM_THREADS", "NUMBA_DISABLE_JIT", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
# One module of each extra.
_EXTRAS = {
    "atari": "ale_py", "minatar": "minatar", "envpool": "envpool", "box2d": "Box2D",
    "tensorboard": "tensorboard", "wandb": "wandb", "report": "matplotlib",
    "video": "imageio_ffmpeg", "sweep": "optuna", "minari": "minari", "export": "onnxscript",
    "ray": "ray",
    "sb3": "stable_baselines3", "peers": "sbx",
}  # fmt: skip
_INTACT = "intact"


def examine_machine(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields (name, finding) of everything that a run in folder would depend on."""
    yield (
        "versions",
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
    )
    yield "system", f"{platform.platform()}; {processor()}"
    given = [f"{name}={os.environ[name]}" for name in _SETTINGS if name in os.environ]
    if (quota := cpu_quota()) is not None:
        given.insert(0, f"control group quota {quota:g} cores")
    yield (
        "threads",
        f"{usable_cores()} of {os.cpu_count()} cores, torch {torch.get_num_threads()}, "
        f"Numba {numba.get_num_threads()}" + "".join(f", {each}" for each in given),
    )
    yield "BLAS", _blas()
    settings: Any = vars(numba)["config"]  # its names exist only at run time
    compiles = "disabled" if settings.DISABLE_JIT else "compiles"
    yield "Numba", f"{compiles}, {settings.CPU_NAME or 'for this processor'}; {_cache()}"
    yield "GPU", _gpus()
    room = available_bytes()
    yield (
        "memory",
        "unknown" if room is None else f"{_size(room)} available, control group limits included",
    )
    yield "disk", _disk(folder)
    shared = Path("/dev/shm")
    if shared.is_dir():
        yield "shared memory", f"{_size(shutil.disk_usage(shared).free)} free, for worker processes"
    yield "extras", ", ".join(_extra(*each) for each in _EXTRAS.items())


def examine_run(run: Path) -> tuple[list[tuple[str, str]], bool]:
    """Returns (name, finding) of everything in a run folder, and whether all of it is intact.

    The last finding is the suggested next command. No module that the run names is imported.

    Raises:
        ConfigError: The folder does not exist.
    """
    if not os.path.isdir(run):  # Path.is_dir() raises for a very long name
        raise ConfigError([f"{run} is not a folder: give the folder of a run"])
    table = is_table_run(run)
    found = [("options", _options(run, table)), ("lock", (holder(run) or ("free", False))[0])]
    found += [(name, _weights(run / name)) for name in ("policy.safetensors", "best.safetensors")]
    checkpoints = {} if table else {name: _checkpoint(run, name) for name in checkpoint_names(run)}
    latest = _latest(run)
    for name, state in checkpoints.items():
        found.append((f"checkpoint {name}", state + (", the latest" if name == latest else "")))
    if not table and latest not in checkpoints:
        found.append(("latest", latest))
    states = [state for name, state in found if name not in ("lock", "latest")]
    is_well = all(state.startswith((_INTACT, "missing")) for state in states)
    is_well &= latest in checkpoints or not checkpoints
    whole = [name for name, state in checkpoints.items() if state.startswith(_INTACT)]
    weights = any(
        state.startswith(_INTACT) for name, state in found if name.endswith(".safetensors")
    )
    return [*found, ("next", remedy(run, whole, latest, weights))], is_well


def _options(run: Path, table: bool) -> str:
    try:
        config = read_table_config(run) if table else read_config(run)
    except ConfigError as error:
        return error.lines[0]
    kind = "a tabular run, which has no checkpoints, " if table else ""
    try:
        names = read_handed_in(run) or HandedIn()
    except ConfigError as error:
        return error.lines[0]
    given = "".join(
        f", {what} passed from Python ({name})"
        for what, name in names._asdict().items()
        if name is not None
    )
    what = f"{kind}{config.env_id}{given}, {config.preset}, seed {config.seed}"
    return f"{_INTACT}: {what}{_ending(run)}"


def _ending(run: Path) -> str:
    try:
        text = read_text(run / "summary.json")
    except ValueError:
        return "; no summary: it is running, or was killed"
    reason = text.partition('"exit_reason": "')[2].partition('",\n')[0]
    return f"; ended: {reason[:200]}"


def _weights(path: Path) -> str:
    if not path.exists():
        return "missing"
    try:
        arrays = [load_table(path)[0]] if is_table(path) else load_weights(path)[0].values()
    except ValueError as error:
        return str(error)
    if not all(np.isfinite(array).all() for array in arrays):
        return f"{path} contains NaN or infinity"
    return f"{_INTACT}, {_size(path.stat().st_size)}"


def _checkpoint(run: Path, name: str) -> str:
    problem = problem_of(run, name)
    return f"{_INTACT}, {int(name.removeprefix('step-')):,} steps" if problem is None else problem


def _latest(run: Path) -> str:
    try:
        return read_latest(run)
    except FileNotFoundError:
        return "no checkpoint yet"
    except ValueError as error:
        return str(error)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _blas() -> str:
    built = np.show_config(mode="dicts") or {}
    blas = built.get("Build Dependencies", {}).get("blas", {})
    simd = built.get("SIMD Extensions", {}).get("found", [])
    own = "MKL" if torch.backends.mkl.is_available() else "no MKL"
    return (
        f"NumPy: {blas.get('name', 'unknown')} {blas.get('version', '')}, up to "
        f"{simd[-1] if simd else 'its baseline'}; torch: {own}, kernels for "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )


def _cache() -> str:
    """Describes the cache of compiled kernels."""
    import fastdqn.replay  # noqa: F401 (it defines kernels)

    folder = cache_folder()
    if folder is None:
        return "no kernel cache: each process compiles its own. Set NUMBA_CACHE_DIR"
    return f"kernel cache in {folder}"


def _gpus() -> str:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        return "none" + ("; torch was built without CUDA" if built is None else f" (CUDA {built})")
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(f"{each.name}, {_size(each.total_memory)}" for each in devices)


def _disk(folder: Path) -> str:
    try:
        free = f"{_size(shutil.disk_usage(folder).free)} free in {folder.absolute()}"
        with tempfile.TemporaryFile(dir=folder) as file:
            began = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            return f"{free}; a synced write takes {1e3 * (time.perf_counter() - began):.1f} ms"
    except OSError as error:
        return f"{folder.absolute()} is not writable: {error.strerror}"


def _extra(name: str, module: str) -> str:
    if importlib.util.find_spec(module) is not None:
        return name
    return f"{name} missing (pip install 'fastdqn[{name}]')"


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,} bytes"


def doctor(run: str | None) -> int:
    """Runs `fastdqn doctor`. Returns the exit code: 1 if something of the run is damaged.

    Raises:
        ConfigError: The folder does not exist.
    """
    rows, is_well = ([], True) if run is None else examine_run(Path(run))
    rows = [*examine_machine(Path.cwd()), *rows]
    width = max(len(name) for name, _ in rows)
    for name, found in rows:
        print(f"{name:{width}}  {printable(found)}")
    return 0 if is_well else 1
