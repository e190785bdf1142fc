"""The command line: its help, what it lists, and how it says what a run came to."""

import re

import gymnasium
import pytest

import fastdqn
from fastdqn.config.option import options_of
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config
from fastdqn.session import RUN_FAILURES
from helpers.command_line import ODD, SUMMARY, Odd, ask, no_training, register

pytestmark = pytest.mark.usefixtures("odd_environments", "in_an_empty_folder")


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_lists_the_commands(word):
    code, out, err = ask(word)
    assert (code, err) == (0, [])
    assert [name for name in ("train", "eval", "presets", "--version") if name not in out] == []


def test_without_a_command_the_usage_is_shown_and_the_code_is_2():
    code, out, _ = ask()
    assert code == 2
    assert out.startswith("usage: fastdqn")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train --help", "train cartpole -h", "train cartpole --help"])
def test_train_help_lists_every_option_with_its_sentence(command):
    code, out, err = ask(*command.split())
    assert (code, err) == (0, [])
    options = {f"--{o.flag or name.replace('_', '-')}" for name, o in options_of(Config).items()}
    shown = re.findall(r"^\W*(--[\w-]+)", out, flags=re.M)
    assert options | {"--dry-run", "--config"} <= set(shown)
    assert "Discount factor per step." in out


def test_train_help_comes_in_groups_with_the_default_of_each_option():
    out = ask("train", "--help")[1]
    titles = re.findall(r"^\W*([a-z]+) options\W*$", out, flags=re.M)
    assert titles == [
        "environment", "run", "actors", "start", "learning", "techniques", "network",
        "exploration", "evaluation", "performance", "output",
    ]  # fmt: skip
    group = out[out.index("techniques options") : out.index("network options")]
    assert "--prioritized" in group
    assert "--gamma" not in group
    assert out.count("default:") >= len(Config.__dataclass_fields__)


@pytest.mark.slow
def test_help_shows_the_defaults_of_the_preset():
    shown = ask("train", "cartpole", "--help")[1].replace("│", " ")  # lines break anywhere
    assert "(default: 475.0)" in " ".join(shown.split())


def test_help_of_resume_explains_changes_and_shows_no_default_of_another_run():
    for command in ("resume --help", "resume RUN -h"):
        code, out, err = ask(*command.split())
        assert (code, err) == (0, [])
        assert out.startswith(
            "RUN continues from its last checkpoint, with the options that it has."
        )
        shown = " ".join(out.partition("learning options")[2].replace("│", " ").split())
        assert shown.count("(default: as in the run)") == shown.count("(default: ") > 20
        assert "--gamma" not in out


@pytest.mark.parametrize("command", ["eval --help", "eval RUN -h", "presets --help"])
def test_other_commands_have_a_help_too(command):
    code, out, err = ask(*command.split())
    assert (code, err) == (0, [])
    assert "usage: fastdqn" in out


def test_version_is_the_package_s():
    assert ask("--version") == (0, f"fastdqn {fastdqn.__version__}\n", [])


def test_presets_lists_each_with_what_it_changes():
    code, out, _ = ask("presets")
    assert code == 0
    blocks = re.split(r"\n(?=\S)", out.strip())
    assert [block.split("\n")[0] for block in blocks] == list(PRESETS)
    assert "stop_at_return=475.0" in blocks[0]
    assert "gamma" not in out


def test_dry_run_prints_what_is_resolved_and_writes_nothing(tmp_path):
    code, out, err = ask("train", "cartpole", "--dry-run", "--num-envs", "8", "--device", "cpu")
    assert (code, err) == (0, [])
    shown = dict(line.split(None, 1) for line in out.splitlines() if line[:1].isalpha())
    assert shown["num_envs"] == "8"
    assert shown["vectorization"] == "compiled"
    assert shown["eval_max_steps"] == "500"
    assert shown["log_frequency"] == "1000"
    assert shown["run_dir"].startswith("runs/CartPole-v1__cartpole__1__")
    assert "observations (4,) float32, 2 actions" in out
    assert "each transition is replayed 3.2 times" in out
    assert re.search(r"replay buffer: [\d.]+ MiB", out)
    assert not any(tmp_path.iterdir())


def test_what_a_run_came_to_is_printed_unless_quiet():
    with no_training():
        code, out, _ = ask("train", "cartpole")
        assert code == 0
        assert out.startswith("budget spent after 1 steps")
        assert out.endswith(
            "run folder: runs/x; next:\n  fastdqn report runs/x\n  fastdqn video runs/x\n"
            "  fastdqn eval runs/x\n"
        )
        assert ask("train", "cartpole", "--quiet") == (0, "", [])


@pytest.mark.slow
@pytest.mark.parametrize("failure", RUN_FAILURES)
def test_a_run_that_fails_by_its_numbers_is_one_line_and_exit_code_1(failure):
    def run(session):
        raise failure("env 3, step 7: reward is nan")

    with no_training(run):
        assert ask("train", "cartpole") == (1, "", ["error: env 3, step 7: reward is nan"])


def test_an_interrupt_is_130_whether_it_was_caught_or_not():
    def run(session):
        raise KeyboardInterrupt

    with no_training(run):
        assert ask("train", "cartpole")[0] == 130
    with no_training(lambda _: {**SUMMARY, "exit_reason": "interrupted"}):
        code, said, _ = ask("train", "cartpole")
    assert code == 130
    assert "\n  fastdqn resume " in said  # as what to type next


def test_an_environment_that_exits_the_process_is_no_success():
    def run(session):
        raise SystemExit(3)

    with no_training(run), pytest.raises(SystemExit) as caught:
        ask("train", "cartpole")
    assert caught.value.code == 3


def test_envs_of_a_module_lists_what_it_registers_even_if_closing_one_fails():
    class Unclosing(Odd):
        def close(self):
            raise RuntimeError("still open")

    register("Unclosing-v0", Unclosing)
    try:
        code, said, _ = ask("envs", "helpers.command_line:")
    finally:
        del gymnasium.registry["Unclosing-v0"]
    assert code == 0
    head, *lines = said.splitlines()
    assert head.split() == ["id", "auto", "faster", "observations", "->", "actions"]
    assert lines.pop().startswith("workers: faster with eight or more environments")
    listed = {line.split()[0] for line in lines if line[0] != "["}
    assert listed == {*ODD, "Unclosing-v0"}


def test_a_goal_of_another_environment_is_a_warning():
    words = ["train", "cartpole", "--env-id", "Acrobot-v1", "--dry-run"]
    said = (
        "warning: stop_at_return is 475, the goal of CartPole-v1, and env_id is Acrobot-v1: use "
        "--stop-at-return, or fastdqn train Acrobot-v1"
    )
    assert said in ask(*words)[1]
    assert "warning" not in ask(*words, "--stop-at-return", "-100")[1]
    assert "warning" not in ask("train", "cartpole", "--dry-run")[1]
