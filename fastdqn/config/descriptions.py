"""Texts on a run: its replay ratio, and the phases that only measure waiting."""

from fastdqn.config import atari_protocols
from fastdqn.config.schema import Config


def residual_phases(config: Config) -> dict[str, str]:
    """Phases that are billed only what is left to wait for, by name, and what that is."""
    phases = {}
    in_threads = config.vectorization in ("async", "envpool")
    if in_threads or config.atari_protocol in atari_protocols.PROTOCOLS:
        phases["env"] = "residual wait: environments step while the learner works"
    if config.device != "cpu":
        phases["learn"] = "the launching of updates: the device works while the host goes on"
        phases["act"] = "acting, and residual wait for the updates before it"
    return phases


def replay_ratio(config: Config) -> str:
    """How often each transition is learned from, in words."""
    if not config.replay:
        return "nothing is replayed: each transition is learned from once"
    ratio = config.batch_size / config.train_frequency
    return f"each transition is replayed {float(ratio):.3g} times"
