"""Warm-up: compiles and runs the learner and the policy once, before time is measured."""

from collections.abc import Callable
from typing import NamedTuple

from fastdqn.builders import agent, devices
from fastdqn.builders.parts import UserParts
from fastdqn.builders.preflight import Setup
from fastdqn.config.conflicts import is_graph
from fastdqn.config.schema import ConfigError, ResolvedConfig
from fastdqn.envs import EnvFacts, EnvStream
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.graph_capture import UncapturableError
from fastdqn.learning.learner import Learner
from fastdqn.learning.policy import Policy
from fastdqn.learning.priority_feedback import PriorityFeedback
from fastdqn.part_error import PartError
from fastdqn.ranks.one_rank import Ranks
from fastdqn.replay import Replay


class Ready(NamedTuple):
    """Learner, staging, priority feedback and policy after their first call."""

    learner: Learner
    staging: Staging
    feedback: PriorityFeedback
    policy: Policy


class Notices:
    """Collects lines until a display can show them."""

    def __init__(self):
        self.lines: list[str] = []
        self.show: Callable[[str], None] = self.lines.append

    def __call__(self, line: str) -> None:
        self.show(line)


def get_ready(
    setup: Setup,
    online: FlatParameters,
    replay: Replay,
    start: EnvStream,
    facts: EnvFacts,
    say: Callable[[str], None],
    ranks: Ranks,
) -> tuple[ResolvedConfig, Ready]:
    """Makes and warms up learner, staging and policy. Returns them with the config.

    An update that cannot be captured runs eagerly, and the returned config says so.

    Args:
        setup: Resolved options, and the capture option before it was resolved.
        online: The online network.
        replay: The replay, whose batches are used.
        start: A started stream, whose observations are used.
        facts: Of the environment.
        say: Prints a line.
        ranks: Exchange gradients.

    Raises:
        ConfigError: capture is graph, and the update cannot be captured.
    """
    config, own = setup.config, setup.own
    try:
        return config, _get_ready(config, own, online, replay, start, facts, say, ranks)
    except UncapturableError as error:
        asked = setup.requested.capture
        if is_graph(asked):
            raise ConfigError([f"capture is {asked}, and {error}: use --capture auto"]) from None
        say(f"capture is eager: {error}")
    except PartError as error:
        raise ConfigError([str(error)]) from None
    config = config.replace(capture="eager", updates_per_launch=1)
    try:
        return config, _get_ready(config, own, online, replay, start, facts, say, ranks)
    except PartError as error:
        raise ConfigError([str(error)]) from None


def _get_ready(
    config: ResolvedConfig,
    own: UserParts,
    online: FlatParameters,
    replay: Replay,
    start: EnvStream,
    facts: EnvFacts,
    say: Callable[[str], None],
    ranks: Ranks,
) -> Ready:
    capture = devices.make_capture(config, say)
    learner = agent.make_learner(config, online, capture, own, replay.store, ranks)
    batch = replay.new_batch(config.batch_size)
    staging, returns = devices.make_staging(config, batch, online.weights.device)
    policy = agent.make_policy(config, online, learner.value, facts, capture, replay.store)
    devices.prepare_learner(learner, staging)
    policy.prepare(start.obs, start.mask)
    return Ready(learner, staging, returns, policy)
