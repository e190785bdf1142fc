"""Episodes in .npz files.

The schema, for T transitions of E episodes, one after another:

    episode_lengths  int[E]      transitions of each episode
    observations     [T + E, *]  as the environment returns them, the last one of each episode too
    actions          int[T]      as the environment takes them
    rewards          float[T]
    terminations     bool[T]
    truncations      bool[T]
    action_masks     bool[T + E, A], only with action masks
"""

import io
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from fastdqn.datasets.episodes import DatasetError, Episodes, from_arrays
from fastdqn.envs import EnvFacts
from fastdqn.files.atomic_write import write_whole
from fastdqn.files.open_folder import open_file


def read_npz(path: Path, facts: EnvFacts, space: spaces.Space) -> Episodes:
    """Reads a file of episodes. Raises DatasetError."""
    try:
        # Never a pickle, which can run code; never a device or a pipe.
        fd, _ = open_file(path, os.O_RDONLY, follow=True)
        with open(fd, "rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise DatasetError(f"{path} is one array, not a .npz file: use numpy.savez")
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist") from None
    except MemoryError:
        raise DatasetError(f"{path} cannot be read: it does not fit into memory") from None
    except DatasetError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"{path} is not a readable .npz file: {why}") from None
    return from_arrays(str(path), arrays, facts, space)


def save_npz(path: Path, episodes: Iterable[Mapping[str, Any]]) -> None:
    """Writes episodes to a file that --prefill reads.

    Args:
        path: File to write. A crash leaves the old file or the new one.
        episodes: One mapping for each episode of L transitions: observations [L + 1, *], actions
            [L], rewards [L], and optionally terminations [L], truncations [L] and action_masks
            [L + 1, A].

    Raises:
        ValueError: An episode has no transition, or its arrays differ in length.
    """
    names = ("observations", "actions", "rewards", "terminations", "truncations", "action_masks")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    lengths = []
    for number, episode in enumerate(episodes):
        length = len(episode["actions"])
        never = np.zeros(length, np.bool_)
        given = {"terminations": never, "truncations": never, **episode}
        for name in names:
            if name not in given:
                continue
            expected = length + (name in ("observations", "action_masks"))
            if len(given[name]) != expected or length == 0:
                raise ValueError(
                    f"{name} of episode {number} has {len(given[name])} entries, must have "
                    f"{expected}, for at least one transition"
                )
            columns[name].append(np.asarray(given[name]))
        lengths.append(length)
    if not lengths:
        raise ValueError("there are no episodes to save")
    if len(columns["action_masks"]) not in (0, len(lengths)):
        raise ValueError("action_masks must be in every episode or in none")
    arrays: dict[str, Any] = {name: np.concatenate(each) for name, each in columns.items() if each}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays, episode_lengths=np.array(lengths))
    write_whole(path, content.getvalue())
