"""Making vector environments by id, with errors that say what to do."""

import contextlib
import difflib
import signal
import threading
from collections.abc import Iterator

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

VECTORIZATIONS = ("auto", "native", "sync", "async")
_GYMNASIUM_MODES = {"native": "vector_entry_point", "sync": "sync", "async": "async"}


def resolve_vectorization(env_id: str, vectorization: str) -> str:
    """Turn auto into native where the environment registers a vector class, else sync."""
    if vectorization != "auto":
        return vectorization
    return "native" if _has_native(find_spec(env_id)) else "sync"


def find_spec(env_id: str) -> EnvSpec:
    """Look an id up, importing 'module:' first. Raises ValueError with the nearest names."""
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            __import__(module)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"env_id {env_id!r}: cannot import {module!r} ({error}); is it installed?"
            ) from None
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        near = nearest(name, registered())
        hint = f"did you mean {near}?" if near else str(error).split("\n")[0]
        raise ValueError(f"no environment is registered as {env_id!r}: {hint}") from None


def registered() -> list[str]:
    """Every id that Gymnasium knows now."""
    return list(gymnasium.registry)


def nearest(name: str, known) -> str:
    """The known names closest to one that is not known, as 'a or b'; '' if none is close."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=2, cutoff=0.6)
    return " or ".join(by_lower[k] for k in close)


def make_envs(
    env_id: str,
    num_envs: int,
    vectorization: str = "auto",
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    **kwargs,
) -> VectorEnv:
    """Make num_envs lanes of a registered environment.

    vectorization   auto, native, sync or async
    autoreset_mode  of sync and async; a native class has its own
    Raises ValueError, one line, where the id, a dependency or the mode is not there.
    """
    spec = find_spec(env_id)
    mode = resolve_vectorization(env_id, vectorization)
    if mode == "native" and not _has_native(spec):
        raise ValueError(
            f"{env_id} registers no vector environment of its own: --vectorization sync or async"
        )
    vector_kwargs: dict = {}
    if mode != "native":
        # The stream copies what it keeps, so the environments need not copy it once more.
        vector_kwargs = {"autoreset_mode": autoreset_mode, "copy": False}
    try:
        with _deaf_children() if mode == "async" else contextlib.nullcontext():
            return gymnasium.make_vec(
                env_id, num_envs, _GYMNASIUM_MODES[mode], vector_kwargs=vector_kwargs, **kwargs
            )
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise ValueError(f"{env_id} needs a package that is missing: {_one_line(error)}") from None
    except (Exception, SystemExit) as error:  # a constructor of anyone's
        raise ValueError(
            f"{env_id} cannot be made: {type(error).__name__}: {_one_line(error)}"
        ) from None


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started in here ignore Ctrl-C: the parent, who hears it too, ends them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _has_native(spec) -> bool:
    return spec.vector_entry_point is not None and not spec.additional_wrappers


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
