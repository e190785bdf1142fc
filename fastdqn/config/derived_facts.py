"""Descriptions of a run's options: its replay ratio, and the phases that measure only waiting."""

from fastdqn.config import atari_protocols
from fastdqn.config.schema import Config

# What makes worker processes worthwhile: environments, share of the time that stepping takes, and
# seconds of a step of all environments, of which the processes cost about 0.1 ms. Ours, untuned.
_LEAST_ENVS, _LEAST_SHARE, _LEAST_SECONDS = 8, 0.4, 5e-4


def residual_phases(config: Config) -> dict[str, str]:
    """Returns the phases whose time is only a residual wait, with an explanation of each."""
    phases = {}
    in_threads = config.vectorization in ("workers", "async", "envpool")
    if in_threads or config.atari_protocol in atari_protocols.PROTOCOLS:
        phases["env"] = (
            "what is left of the wait for environments: they step while the learner runs"
        )
    if config.actors:
        phases["actors"] = "the wait for blocks of actors, which step while the learner runs"
        phases.pop("env", None)
    if config.device != "cpu":
        phases["learn"] = "the launch of updates: the device runs them while the host continues"
        phases["act"] = "the policy, and what is left of the wait for earlier updates"
    if config.ranks > 1:
        phases["ranks"] = "the wait for the slowest rank, once a step"
    return phases


def replay_ratio(config: Config) -> str:
    """Returns how often each transition is learned from, in words."""
    if not config.replay:
        return "no replay: each transition is learned from once"
    ratio = config.batch_size / config.train_frequency
    return f"each transition is replayed {float(ratio):.3g} times"


def workers_advice(
    config: Config, phase_seconds: dict[str, float], steps: int, cores: int
) -> str | None:
    """Returns a sentence that recommends worker processes where they pay, or None.

    Args:
        config: The resolved options.
        phase_seconds: Seconds of each phase of the run.
        steps: Transitions in that time.
        cores: Usable cores.
    """
    stepping, total = phase_seconds.get("env", 0.0), sum(phase_seconds.values())
    if config.vectorization != "sync" or config.num_envs < _LEAST_ENVS or cores < 2:
        return None
    if not stepping or stepping < _LEAST_SHARE * total:
        return None
    if stepping * config.num_envs < _LEAST_SECONDS * steps:
        return None
    return (
        f"stepping the environments took {stepping / total:.0%} of the time: "
        f"--vectorization workers --workers {cores} steps them on {cores} cores"
    )


def keeps_frames(config: Config, stack: int) -> bool:
    """Returns whether replay rows store only the newest of stacked frames."""
    return config.store == "frames" or (config.store in ("auto", "device") and stack > 1)
