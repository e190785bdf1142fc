"""Errors that new users meet with other environments have a remedy."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from fastdqn import Config
from fastdqn.builders.torso_kinds import problem, remark, settle
from fastdqn.envs import EnvFacts, EnvRecipe
from fastdqn.envs.observations import ObsReader, short
from helpers.command_line import ask


def missions() -> spaces.Text:
    """A text space like MiniGrid's, whose repr has the address of a function."""

    class MissionSpace(spaces.Text):
        def __repr__(self) -> str:
            return f"MissionSpace({missions}, None)"

    return MissionSpace(8)


SPACE = spaces.Dict(
    direction=spaces.Discrete(4), image=spaces.Box(0, 255, (7, 7, 3), np.uint8), mission=missions()
)


class Mission(gymnasium.Env):
    def __init__(self, **kwargs):
        self.observation_space, self.action_space = SPACE, spaces.Discrete(3)


def lines_of(function, *args) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        function(*args)
    return str(caught.value)


def test_an_unregistered_id_is_rejected_with_the_syntax_for_packages():
    line = lines_of(EnvRecipe("Quux-Empty-5x5-v0").make, 1)
    assert "my_package:Quux-Empty-5x5-v0" in line
    assert "fastdqn envs my_package:" in line


def test_long_lists_of_ids_are_shortened():
    known = [f"Quux{i}-v0" for i in range(30)]
    for env_id in known:
        gymnasium.register(env_id, Mission)
    try:
        line = lines_of(EnvRecipe(f"{__name__}:Zzzzzzzzz").make, 1)
    finally:
        for env_id in known:
            del gymnasium.registry[env_id]
    assert line.endswith("Quux19-v0 and 10 more")


def test_a_distribution_name_is_rejected_with_its_module_name():
    line = lines_of(EnvRecipe("no-such-env:Quux-v0").make, 1)
    assert "The module may be named no_such_env" in line


def test_an_unsupported_part_is_named_with_the_keys_to_keep_and_without_addresses():
    line = lines_of(ObsReader, SPACE)
    assert "['mission'] is MissionSpace, which has no fixed number of values" in line
    assert "FilterObservation(env, ['direction', 'image'])" in line
    assert short(SPACE["image"]) == str(SPACE["image"])


def test_the_keys_to_keep_do_not_include_dropped_ones():
    text, number = spaces.Text(9), spaces.Discrete(2)
    line = lines_of(ObsReader, spaces.Tuple((number, text, number)))
    assert "FilterObservation(env, [0, 2])" in line
    line = lines_of(ObsReader, spaces.Dict(a=number, b=text, c=text))
    assert line.count("FilterObservation(env, ['a'])") == 2
    assert "FilterObservation" not in lines_of(ObsReader, spaces.Dict(a=text))


class Several(gymnasium.Env):
    observation_space = spaces.Discrete(2)
    action_space = spaces.Dict(a=spaces.Discrete(2))


@pytest.mark.parametrize("make", [Mission, Several])
def test_a_list_of_environments_shows_a_common_remedy_once(make):
    for env_id in ("QuuxA-v0", "QuuxB-v0"):
        gymnasium.register(env_id, make)
    try:
        code, said, _ = ask("envs", f"{__name__}:Quux")
    finally:
        for env_id in ("QuuxA-v0", "QuuxB-v0"):
            del gymnasium.registry[env_id]
    _, *rows, remedy = said.splitlines()
    assert (code, len(rows)) == (0, 2)
    what, how = {
        Mission: ("no fixed number of values", "drop it with gymnasium.wrappers.FilterObservation"),
        Several: ("Dict('a': Discrete(2)) is not Discrete", "map each combination to one number"),
    }[make]
    assert all(row.endswith(f"{what} [1]") for row in rows)
    assert remedy.startswith(f"[1] {how}")


@pytest.mark.parametrize(
    ("shape", "dtype", "says"),
    [
        ((56, 56, 3), np.uint8, "uint8 [56, 56, 3], flattened into an MLP"),
        ((4, 128, 64), np.uint8, "--torso nature takes [K, H, W]"),
        ((7, 7, 3), np.uint8, None),
        ((56, 56, 3), np.float32, None),
        ((4, 84, 84), np.uint8, None),  # nature has it
    ],
)
def test_images_that_an_mlp_would_flatten_are_reported(shape, dtype, says):
    facts = EnvFacts(shape, np.dtype(dtype), 1.0, 3, 0)
    line = remark(settle(Config(), facts)["torso"], facts)
    assert (line is None) if says is None else (says in str(line))


def test_a_channels_last_image_is_rejected_with_a_remedy():
    assert "move them first with a wrapper" in str(problem("nature", (84, 84, 3)))
    assert "bring them" not in str(problem("nature", (4, 20, 20)))


def test_arguments_that_are_not_json_are_rejected_with_a_remedy():
    (line,) = Config(env_kwargs={"shape": (84, 84)}).problems()
    assert "register a function that makes the environment" in line
