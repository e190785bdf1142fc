"""Episodes of Minari data sets, by the minari library (extra minari)."""

import importlib.util
from typing import Any

import numpy as np
from gymnasium import spaces

from fastdqn.datasets.episodes import DatasetError, Episodes, from_arrays
from fastdqn.envs import EnvFacts

PREFIX = "minari:"


def read_minari(dataset_id: str, facts: EnvFacts, space: spaces.Space) -> Episodes:
    """Reads a data set that is on this machine. Raises DatasetError."""
    source = f"{PREFIX}{dataset_id}"
    if not dataset_id.strip():
        raise DatasetError(
            f"{source!r} names no data set: use {PREFIX}ID, such as {PREFIX}cartpole/expert-v0 "
            "(minari list local shows those on this machine)"
        )
    if importlib.util.find_spec("minari") is None:
        raise DatasetError(f"{source} needs minari: pip install 'fastdqn[minari]'")
    import minari  # pyright: ignore[reportMissingImports]

    try:
        dataset = minari.load_dataset(dataset_id)
        columns = _columns(source, dataset)
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError(
            f"{source} is not on this machine: download it with minari download {dataset_id}"
        ) from None
    except MemoryError:
        raise DatasetError(f"{source} cannot be read: it does not fit into memory") from None
    except Exception as error:  # the library and its storage raise many kinds
        raise DatasetError(f"{source} cannot be read: {' '.join(str(error).split())}") from None
    return from_arrays(source, columns, facts, space)


def _columns(source: str, dataset: Any) -> dict[str, Any]:
    episodes = [each for each in dataset.iterate_episodes() if len(each.rewards)]
    if not episodes:
        raise DatasetError(f"{source} has no episodes")
    columns = {
        name: np.concatenate([np.asarray(getattr(each, name)) for each in episodes])
        for name in ("actions", "rewards", "terminations", "truncations")
    }
    lengths = np.array([len(each.rewards) for each in episodes])
    observations = _joined([each.observations for each in episodes])
    columns |= {"episode_lengths": lengths, "observations": observations}
    infos = [each.infos for each in episodes]
    if all(isinstance(each, dict) and "action_mask" in each for each in infos):
        columns["action_masks"] = np.concatenate([each["action_mask"] for each in infos])
    return columns


def _joined(parts: list[Any]) -> Any:
    """Returns the observations of all episodes, however nested, as one."""
    first = parts[0]
    if isinstance(first, dict):
        return {key: _joined([each[key] for each in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(_joined([each[i] for each in parts]) for i in range(len(first)))
    return np.concatenate(parts)
