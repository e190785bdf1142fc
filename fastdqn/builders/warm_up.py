"""Ready: what learns and what acts, each called once before the clock runs."""

from collections.abc import Callable
from typing import NamedTuple

from fastdqn.builders import agent, devices
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import EnvFacts, EnvStream
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.graph_capture import UncapturableError
from fastdqn.learning.learner import Learner
from fastdqn.learning.policy import Policy
from fastdqn.learning.priority_feedback import Returns
from fastdqn.replay import Batch


class Ready(NamedTuple):
    learner: Learner
    staging: Staging
    returns: Returns
    policy: Policy


class Notices:
    """Lines that come up before there is anyone to show them: they are kept until then."""

    def __init__(self):
        self.lines: list[str] = []
        self.show: Callable[[str], None] = self.lines.append

    def __call__(self, line: str) -> None:
        self.show(line)


def get_ready(
    config: Config,
    asked: str,
    online: FlatParameters,
    batch: Batch,
    start: EnvStream,
    facts: EnvFacts,
    say: Callable[[str], None],
) -> tuple[Config, Ready]:
    """Learner, staging and policy of a resolved config, after a first call of each.

    asked  what capture was before it was resolved; batch  as the replay lays it out
    start  a stream that has started: its observations are acted for
    Where the update cannot be captured it runs eagerly, and the config that comes back says so:
    raises ConfigError where capture was asked for.
    """
    try:
        return config, _get_ready(config, online, batch, start, facts, say)
    except UncapturableError as error:
        if asked == "graph":
            raise ConfigError([f"capture is graph, and {error}: use --capture auto"]) from None
        say(f"capture eager: {error}")
    config = config.replace(capture="eager", updates_per_launch=1)
    return config, _get_ready(config, online, batch, start, facts, say)


def _get_ready(
    config: Config,
    online: FlatParameters,
    batch: Batch,
    start: EnvStream,
    facts: EnvFacts,
    say: Callable[[str], None],
) -> Ready:
    capture = devices.make_capture(config, say)
    learner = agent.make_learner(config, online, capture)
    staging, returns = devices.make_staging(config, batch, online.weights.device)
    policy = agent.make_policy(config, online, learner.value, facts, capture)
    devices.prepare_learner(learner, staging)
    policy.prepare(start.obs, start.mask)
    return Ready(learner, staging, returns, policy)
