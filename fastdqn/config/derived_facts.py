"""Descriptions of a run's options: its replay ratio, and the phases that measure only waiting."""

from fastdqn.config import atari_protocols
from fastdqn.config.schema import Config


def residual_phases(config: Config) -> dict[str, str]:
    """Returns the phases whose time is only a residual wait, with an explanation of each."""
    phases = {}
    in_threads = config.vectorization in ("async", "envpool")
    if in_threads or config.atari_protocol in atari_protocols.PROTOCOLS:
        phases["env"] = "residual wait: environments step while the learner runs"
    if config.device != "cpu":
        phases["learn"] = "the launch of updates: the device runs them while the host continues"
        phases["act"] = "the policy, and the residual wait for earlier updates"
    return phases


def replay_ratio(config: Config) -> str:
    """Returns how often each transition is learned from, in words."""
    if not config.replay:
        return "no replay: each transition is learned from once"
    ratio = config.batch_size / config.train_frequency
    return f"each transition is replayed {float(ratio):.3g} times"
