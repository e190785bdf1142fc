"""StudyFolder: the runs of a study, its file study.json, and the lock of its folder."""

import contextlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from fastdqn.config.schema import ConfigError
from fastdqn.files.atomic_write import WriteError, read_text, to_json, write_whole
from fastdqn.files.durable_write import TEMPORARY
from fastdqn.files.open_folder import Place, Where
from fastdqn.files.run_folder import folder_problem
from fastdqn.files.run_lock import LockedError, locked_folder
from fastdqn.files.run_lock_file import holder
from fastdqn.training.progress import SOLVED, SPENT

FILE = "study.json"
# Changes when an older study can no longer be continued.
VERSION = 1
# Name of the first variant, whose options are those of all.
BASE = "base"
_LONGEST = 80  # maximum characters of a variant's folder
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]*")


class Variant(NamedTuple):
    """Options that all runs of a variant share, beside those of the study.

    Attributes:
        name: Name of its folder.
        options: Arguments of the command line. Empty for the first variant.
    """

    name: str
    options: tuple[str, ...]

    @property
    def label(self) -> str:
        """The options without leading dashes, as figures and tables show them."""
        return " ".join(map(_shown, self.options)) or BASE


class Run(NamedTuple):
    """A run of a study, whether it exists or not."""

    variant: Variant
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.variant.name}/seed-{self.seed}"

    @property
    def log(self) -> Path:
        """File of its output. A run folder without a run must not hold other files."""
        return self.folder.with_name(f"{self.folder.name}.log")


class Study(NamedTuple):
    """What study.json holds. Every variant is trained with every seed.

    Attributes:
        subject: Preset or environment id.
        options: Arguments of the command line that all runs share.
        variants: The first has no options of its own.
        seeds: In the order in which they were asked for.
    """

    subject: str
    options: tuple[str, ...]
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]

    def runs(self, folder: Path) -> list[Run]:
        """Returns the runs of the study in a folder, seed by seed."""
        return [
            Run(variant, seed, folder / variant.name / f"seed-{seed}")
            for seed in self.seeds
            for variant in self.variants
        ]

    def extended(self, options: Sequence[tuple[str, ...]], seeds: Sequence[int]) -> "Study":
        """Returns the study with more variants, given by their options, and more seeds."""
        variants = list(self.variants)
        for each in options:
            if each not in [variant.options for variant in variants]:
                variants.append(Variant(_name(each, [v.name for v in variants]), each))
        return self._replace(
            variants=tuple(variants), seeds=tuple(dict.fromkeys((*self.seeds, *seeds)))
        )

    def to_json(self) -> str:
        variants = [each._asdict() for each in self.variants]
        return to_json({"version": VERSION, **self._asdict(), "variants": variants}, indent=2)


def default_folder(subject: str) -> str:
    """Returns studies/PRESET, or the id of an environment in its place."""
    return str(Path("studies", _slug(subject)))


def is_study(folder: Path) -> bool:
    """Returns whether a folder holds a study."""
    return (folder / FILE).is_file()


def names_no_run(path: str) -> str | None:
    """Returns what a folder is that holds runs but is none, and names some of them, or None."""
    folder = Path(path)
    try:
        if not os.path.isdir(path) or (folder / "config.json").exists():
            return None
        if not is_study(folder):
            runs = sorted(each for each in folder.iterdir() if (each / "config.json").is_file())
            return f"a folder of runs: name one of them, {_some(runs)}" if runs else None
        runs = [run.folder for run in read_study(folder).runs(folder)]
    except ConfigError as error:
        line = error.lines[0].removesuffix(": use another --run-dir")
        return f"a study, and not a run: {line}"
    except OSError:  # such as no permission: an error of reading the run
        return None
    return f"a study: name one of its runs, {_some(runs)}"


def _some(runs: Sequence[Path]) -> str:
    more = f" and {len(runs) - 3} more" if len(runs) > 3 else ""
    return ", ".join(map(str, runs[:3])) + more


def read_study(folder: Where) -> Study:
    """Reads study.json. Raises ConfigError with one line."""
    path = folder / FILE
    try:
        text = read_text(path)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise TypeError("it is not an object")
        if (version := found.get("version")) != VERSION:
            raise ValueError(f"its version is {version}, this program reads {VERSION}")
        variants = tuple(
            Variant(each["name"], _words(each["options"])) for each in found["variants"]
        )
        study = Study(found["subject"], _words(found["options"]), variants, tuple(found["seeds"]))
        _validate(study)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            [f"{path} is not the file of a study ({' '.join(why.split())}): use another --run-dir"]
        ) from None
    return study


def study_problem(folder: Path) -> str | None:
    """Returns why a study cannot be in this folder, or None. A study may be there already."""
    try:
        if is_study(folder) or (folder.is_dir() and not _others(folder)):
            return (
                None
                if os.access(folder, os.W_OK | os.X_OK)
                else f"run_dir {folder} is not writable"
            )
    except OSError as error:
        return f"run_dir {folder}: {error.strerror}"
    return folder_problem(str(folder))


def held(folder: Path) -> AbstractContextManager[Place]:
    """Creates and locks the folder of a study. Raises ConfigError."""

    def explain(error: LockedError) -> str:
        found = holder(folder)
        return f"the study in {f'{folder} is {found[0]}: wait, or stop it' if found else error}"

    return locked_folder(folder, explain)


def write_study(place: Where, study: Study) -> None:
    """Writes study.json, unless it says the same. Raises ConfigError."""
    text = study.to_json() + "\n"
    with contextlib.suppress(ValueError):
        if read_text(place / FILE) == text:
            return
    try:
        write_whole(place / FILE, text)
    except WriteError as error:
        raise ConfigError([str(error)]) from None


def summary_of(folder: Path) -> dict[str, Any] | None:
    """Returns the summary of a finished run, or None."""
    try:
        summary = json.loads(read_text(folder / "summary.json"))
        return summary if summary["exit_reason"] in (SOLVED, SPENT) else None
    except (ValueError, TypeError, KeyError, RecursionError):  # missing, or of an unfinished run
        return None


def _others(folder: Path) -> list[str]:
    """Returns the names in a folder that a study which has just begun does not have."""
    return [p.name for p in folder.iterdir() if p.name != "lock" and TEMPORARY not in p.name]


def _shown(word: str) -> str:
    return word[2:].replace("=", " ", 1) if word.startswith("--") else word


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise TypeError(f"{value!r:.80} is not a list of words")
    return tuple(value)


def _validate(study: Study) -> None:
    """Raises ValueError or TypeError. A folder's name must not lead out of the study."""
    if not isinstance(study.subject, str) or not study.variants or not study.seeds:
        raise ValueError("it has no subject, variants or seeds")
    for seed in study.seeds:
        if type(seed) is not int or seed < 0:
            raise TypeError(f"{seed!r:.80} is not a seed")
    names = [variant.name for variant in study.variants]
    for name in names:
        if not isinstance(name, str) or not _PLAIN.fullmatch(name) or len(name) > 2 * _LONGEST:
            raise ValueError(f"{name!r:.80} is not the name of a variant")
    if len(set(names)) < len(names) or len(set(study.seeds)) < len(study.seeds):
        raise ValueError("a variant or a seed occurs twice")


def _name(options: Sequence[str], taken: Sequence[str]) -> str:
    """Returns a folder name for the options of a variant, such as n-steps-3, that is not taken."""
    name = _slug("-".join(options)) if options else BASE
    names, number = [each.lower() for each in taken], 1  # some file systems ignore case
    while (found := name if number == 1 else f"{name}-{number}").lower() in names:
        number += 1
    return found


def _slug(text: str) -> str:
    """Returns text as a file name: other characters than letters, digits and ._- are dashes."""
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")
    return plain[:_LONGEST].rstrip("-.") or "variant"
