"""Parts of a user's own: by module:Name from the command line, and as objects from Python."""

import contextlib
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fastdqn
from fastdqn.checkpoints.network_weights import load_weights, save_weights
from fastdqn.learning.optimizer import Optimizer
from fastdqn.learning.rmsprop import RMSProp
from fastdqn.learning.value import ScalarValue, huber
from fastdqn.replay import UniformSampler
from helpers import resumed_runs
from helpers.command_line import ask
from helpers.cost import slow_but
from helpers.docs_pages import GUIDE, blocks
from helpers.loop import small
from helpers.resumed_runs import assert_same_run, nothing, stopping_after, stopping_at

PARTS = '''
import torch
from fastdqn.learning.value import SampleLoss, Value, of_action


class HLGauss(Value):
    """Histogram over [v_min, v_max], whose constructor takes options and an argument."""

    def __init__(self, num_atoms, v_min, v_max, sigma=0.75):
        self.outputs_per_action, self.bounds = num_atoms, (v_min, v_max)
        self.edges = torch.linspace(v_min, v_max, num_atoms + 1)
        self.width = sigma * (v_max - v_min) / num_atoms

    def to(self, device):
        self.edges = self.edges.to(device)
        return self

    def expected(self, output):
        return (self.edges[1:] + self.edges[:-1]) / 2 @ output.softmax(1)

    def target(self, next_output, bootstrap, reward, discount):
        return reward + discount * (self.expected(next_output) * bootstrap.action_weights).sum(1)

    def loss(self, output, action, target, draw):
        inside = target.clamp(*self.bounds).unsqueeze(1)
        cdf = torch.erf((self.edges - inside) / (2**0.5 * self.width))
        probs = (cdf[:, 1:] - cdf[:, :-1]) / (cdf[:, -1:] - cdf[:, :1])
        loss = -(probs * of_action(output, action).log_softmax(1)).sum(1)
        taken = self.expected(output).gather(1, action.unsqueeze(1)).squeeze(1)
        return SampleLoss(loss, (target - taken.detach()).abs(), taken)


class Scaled:
    """A loss that takes an option and an argument."""

    def __init__(self, n_steps, scale):
        self.factor = scale * n_steps

    def __call__(self, prediction, target):
        return self.factor * (prediction - target) ** 2


class Layer(torch.nn.Module):
    """A torso whose size is an option that no other part takes."""

    def __init__(self, obs_shape, n_steps):
        super().__init__()
        self.layer = torch.nn.Linear(obs_shape[0], 8 * n_steps)

    def forward(self, obs):
        return self.layer(obs)


class Normed(torch.nn.Module):
    """A torso with a buffer of integers."""

    def __init__(self, obs_shape):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(obs_shape[0])

    def forward(self, obs):
        return self.norm(obs)


class Wordless:
    def __init__(self, mystery):
        pass


class Torsos(Value):
    def __init__(self, torso):
        pass


class Typed(Value):
    """A value of options that JSON stores in another type."""

    def __init__(self, train_frequency, hidden_sizes, wrapper):
        self.kinds = [type(each).__name__ for each in (train_frequency, hidden_sizes, wrapper)]
        assert self.kinds == ["Fraction", "tuple", "tuple"], self.kinds

    def expected(self, output):
        return output

    def target(self, next_output, bootstrap, reward, discount):
        return reward + discount * (next_output * bootstrap.action_weights).sum(1)

    def loss(self, output, action, target, draw):
        taken = output.gather(1, action.unsqueeze(1)).squeeze(1)
        return SampleLoss((taken - target) ** 2, (target - taken.detach()).abs(), taken)


class Incomplete:
    outputs_per_action = None


class Failing:
    def __init__(self):
        raise OSError("no such table")


number = 3
'''
NAMED = shlex.split(
    "--value my_parts:HLGauss --part-kwargs value.sigma=0.5 --sampler my_samplers:CombinedSampler "
    "--optimizer my_optimizers:Lion --learning-rate-schedule cosine"
)
SHORT = shlex.split(
    "train cartpole --num-envs 4 --total-timesteps 400 --learning-starts 50 --train-frequency 4 "
    "--hidden-sizes 8 --eval-frequency 0 --final-evaluation True --eval-episodes 1 "
    "--eval-max-steps 20 --stop-at-return None --tensorboard False --quiet"
)
MODULES = ("my_parts", "my_samplers", "my_optimizers", "my_broken", "my_deep")

asked_by_the_test = resumed_runs.asked_by_the_test


def of_page(name: str) -> str:
    (module,) = [
        each
        for each in blocks(GUIDE / f"plugin_{name}.md", "python")
        if each.startswith("# my_parts.py")
    ]
    return module


def forget() -> None:
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def modules(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    for name, text in (
        ("my_parts", PARTS),
        ("my_samplers", of_page("sampler")),
        ("my_optimizers", of_page("optimizer")),
        ("my_broken", "raise RuntimeError('a broken\\nmodule')\n"),
        ("my_deep", "import no_such_package\n"),
    ):
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(autouse=True)
def in_modules(modules, monkeypatch):
    """The working directory has the modules, and each test imports them anew."""
    monkeypatch.chdir(modules)
    forget()
    yield
    forget()


def train(run, *more: str) -> tuple[int, str, list[str]]:
    return ask(*SHORT, *more, "--run-dir", str(run))


def config_of(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())


@pytest.fixture(scope="module")
def whole(modules, tmp_path_factory) -> Path:
    """A run with three parts of a user's own and a schedule."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    with contextlib.chdir(modules):
        assert train(run, *NAMED)[0] == 0
        forget()
    return run


# -- by name, from the command line


def test_a_run_with_parts_trains_and_writes_their_names(whole):
    config = config_of(whole)
    assert [config[name] for name in ("value", "sampler", "optimizer")] == [
        "my_parts:HLGauss", "my_samplers:CombinedSampler", "my_optimizers:Lion",
    ]  # fmt: skip
    assert config["learner"] == "torch"
    assert json.loads((whole / "summary.json").read_text())["updates"] > 10


def test_a_stopped_run_resumes_byte_for_byte(whole, tmp_path):
    part = tmp_path / "part"
    with stopping_after(60):
        assert train(part, *NAMED)[0] == 130
    forget()
    assert ask("resume", str(part), "--quiet")[0] == 0
    assert_same_run(whole, part)


@pytest.mark.slow
def test_resume_auto_continues_a_run_with_parts(whole, tmp_path):
    part = tmp_path / "part"
    with stopping_after(60):
        assert train(part, *NAMED, "--resume", "auto")[0] == 130
    assert train(part, *NAMED, "--resume", "auto")[0] == 0
    assert_same_run(whole, part)
    assert train(part, *NAMED, "--resume", "auto")[0] == 0
    code, _, lines = train(part, *NAMED[:-2], "--resume", "auto", "--sampler", "uniform")
    assert code == 2
    assert lines[0].startswith("error: learning_rate_schedule is constant, and cosine in the run")
    assert lines[1].startswith("error: sampler is uniform, and my_samplers:CombinedSampler in")


@pytest.mark.slow
def test_another_process_evaluates_it(whole, modules):
    words = ["eval", str(whole), "--episodes", "2", "--max-steps", "20"]
    result = subprocess.run(
        [sys.executable, "-P", "-m", "fastdqn", *words],
        cwd=modules, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert "over 2 greedy episodes" in result.stdout


@pytest.mark.slow
def test_it_is_exported(whole, tmp_path):
    out = tmp_path / "policy.pt2"
    code, _, lines = ask("export", str(whole), "--format", "torch", "--out", str(out))
    assert (code, lines) == (0, [])
    assert out.stat().st_size > 0


def test_a_loss_and_a_torso_receive_options_of_the_run(tmp_path):
    run = tmp_path / "run"
    words = "--loss my_parts:Scaled --torso my_parts:Layer --n-steps 3 --part-kwargs loss.scale=0.5"
    assert train(run, *words.split())[0] == 0
    policy: Any = fastdqn.load_policy(run)
    assert policy.network.torso.layer.out_features == 24
    forget()
    assert ask("eval", str(run), "--episodes", "1", "--max-steps", "9")[0] == 0


@pytest.mark.parametrize(("words", "line"), [
    ("--value no_module:Name",
     "value 'no_module:Name': cannot import 'no_module' (No module named 'no_module'). Check that "
     "it is installed, or in the current directory"),
    ("--value my_deep:Name", "value 'my_deep:Name': cannot import 'my_deep' (No module named "
     "'no_such_package'). Check that it is installed, or in the current directory"),
    ("--value my_parts:HLGaus",
     "value 'my_parts:HLGaus': my_parts has no 'HLGaus': did you mean HLGauss?"),
    ("--value my_parts:number", "value 'my_parts:number' is a int, not a class or function"),
    ("--value my_broken:Name",
     "value 'my_broken:Name': importing 'my_broken' failed: RuntimeError: a broken module"),
    ("--value my_parts:Incomplete", "value 'my_parts:Incomplete' has no bounds: "
     "fastdqn.learning.value.Value lists what it needs"),
    ("--value my_parts:Wordless", "value 'my_parts:Wordless' takes mystery, which is not an "
     "option: give it a default, or set it with --part-kwargs value.mystery=..."),
    ("--value my_parts:Failing",
     "value 'my_parts:Failing' cannot be made: OSError: no such table"),
    ("--value my_parts:HLGauss --part-kwargs value.sigm=2",
     "part_kwargs sets value.sigm, which value 'my_parts:HLGauss' does not take: it takes "
     "num_atoms, v_min, v_max, sigma"),
    ("--optimizer my_optimizers:Lion --part-kwargs optimizer.beta3=2",
     "part_kwargs sets optimizer.beta3, which optimizer 'my_optimizers:Lion' does not take: it "
     "takes weights, gradient, learning_rate, beta1, beta2"),
    ("--part-kwargs torso.width=3",
     "part_kwargs sets torso.width, which torso 'auto' does not take: it takes no arguments"),
    ("--part-kwargs learning_rate_schedule.period=3",
     "part_kwargs sets learning_rate_schedule.period, which learning_rate_schedule 'constant' does "
     "not take: it takes no arguments"),
    ("--loss huber --part-kwargs loss.delta=2",
     "part_kwargs sets loss.delta, which loss 'huber' does not take: it takes no arguments"),
    ("--value my_parts:HLGauss --loss huber",
     "loss is huber, and value 'my_parts:HLGauss' has its own loss: use --loss mse"),
    ("--value my_parts:Torsos", "torso 'mlp' cannot be an argument of another part"),
    ("--optimizer my_optimizers:Lion --part-kwargs optimizer.weights=2",
     "part_kwargs sets optimizer.weights, which optimizer 'my_optimizers:Lion' receives from the "
     "run: leave it out"),
    ("--part-kwargs learning_rate_schedule.learning_rate=2", "part_kwargs sets "
     "learning_rate_schedule.learning_rate, which learning_rate_schedule 'constant' does not take"),
    ("--value quantile --part-kwargs value.num_quantiles=1000000000", "part_kwargs sets "
     "value.num_quantiles, and num_quantiles is 1000000000: it must be a number, at least 1, at "
     "most 65,536"),
    ("--value quantile --part-kwargs value.num_quantiles=x", "part_kwargs sets "
     "value.num_quantiles, and num_quantiles is 'x': it must be a whole number"),
    ("--torso my_parts:Normed", "torso.norm.num_batches_tracked is torch.int64, but the "
     "network must be float32"),
    ("--part-kwargs optimizer.x=1e400", "part_kwargs is {'optimizer.x': inf}: it must be names "
     "with plain values, such as optimizer.beta2=0.98. For other values, such as tuples and "
     "infinities, name a function that makes the part"),
    ("--learning-rate-schedule piecewise --learning-rate-steps 99 --learning-rate-values 1e39",
     "learning_rate_values is 1e+39: it must be a number, at least 0, at most 1e+30"),
    ("--part-kwargs sigma=2",
     "part_kwargs sets 'sigma': name an argument of a part, such as optimizer.weight_decay. Parts "
     "are optimizer, learning_rate_schedule, loss, backup, value, sampler, torso, exploration"),
    ("--sampler my_parts:Wordless", "sampler 'my_parts:Wordless' takes mystery, which is not an "
     "option: give it a default, or set it with --part-kwargs sampler.mystery=..."),
    ("--sampler my_parts:Failing", "sampler 'my_parts:Failing' cannot be made: OSError: no such "
     "table"),
    ("--optimizer my_parts:Failing", "optimizer 'my_parts:Failing' cannot be made: OSError: no "
     "such table"),
    ("--backup my_parts:Failing", "backup 'my_parts:Failing' cannot be made: OSError: no such "
     "table"),
    ("--exploration my_parts:Failing", "exploration 'my_parts:Failing' cannot be made: OSError: "
     "no such table"),
    ("--learning-rate-schedule my_parts:Failing", "learning_rate_schedule 'my_parts:Failing' "
     "cannot be made: OSError: no such table"),
    ("--torso my_parts:Failing", "torso 'my_parts:Failing' cannot be made: OSError: no such "
     "table"),
    ("--loss my_parts:Failing", "loss 'my_parts:Failing' cannot be made: OSError: no such table"),
    ("--backup my_parts:Incomplete", "backup 'my_parts:Incomplete' has no asks_target_next: "
     "fastdqn.learning.bootstrap_targets.Backup lists what it needs"),
    ("--value custom", "value is custom, an object from Python: pass it again, as value=..."),
])  # fmt: skip
@pytest.mark.parametrize("resume", slow_but(["never", "auto"], 0))
def test_a_part_that_cannot_be_made_is_one_line_and_leaves_no_folder(tmp_path, words, line, resume):
    run = tmp_path / "runs" / "run"
    code, _, lines = train(run, *words.split(), "--resume", resume)
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: " + line)
    assert not run.parent.exists()


# -- weights files


def test_a_weights_file_alone_imports_no_module(whole, tmp_path):
    lone = tmp_path / "policy.safetensors"
    lone.write_bytes((whole / "policy.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"only the config\.json of its run may name a module"):
        fastdqn.load_policy(lone)
    assert "my_parts" not in sys.modules
    code, _, lines = ask("eval", str(lone), "--env-id", "CartPole-v1")
    assert code == 2
    assert len(lines) == 1
    assert "my_parts" not in sys.modules
    assert fastdqn.load_policy(lone, value="my_parts:HLGauss") is not None


def test_a_part_of_another_run_is_not_imported(whole, tmp_path):
    (tmp_path / "config.json").write_text((whole / "config.json").read_text().replace(
        "my_parts:HLGauss", "fastdqn.learning.value:ScalarValue"
    ))  # fmt: skip
    lone = tmp_path / "policy.safetensors"
    lone.write_bytes((whole / "policy.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"only the config\.json of its run may name a module"):
        fastdqn.load_policy(lone)
    assert "my_parts" not in sys.modules


@pytest.mark.parametrize("name", ["value", "torso", "loss", "sampler"])
def test_a_weights_file_may_not_name_a_module_of_any_part(whole, tmp_path, name):
    """A crafted file, next to the config.json of a run that names no such module."""
    (tmp_path / "config.json").write_bytes((whole / "config.json").read_bytes())
    arrays, description = load_weights(whole / "policy.safetensors")
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    lone = tmp_path / "policy.safetensors"
    save_weights(lone, tensors, description | {name: "my_broken:Name"})
    with pytest.raises(ValueError, match=rf"needs the {name} my_broken:Name, and only"):
        fastdqn.load_policy(lone)
    assert "my_broken" not in sys.modules


def test_a_module_inside_the_run_folder_is_not_imported(whole, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "policy.safetensors"):
        (run / name).write_bytes((whole / name).read_bytes())
    (run / "my_parts.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(run)
    code, _, lines = ask("eval", str(run))
    assert code == 2
    assert len(lines) == 1
    assert "lies inside the run folder: move it" in lines[0]
    assert "my_parts" not in sys.modules


def test_options_have_their_types_where_a_value_is_made_from_a_weights_file(tmp_path):
    run = tmp_path / "run"
    assert train(run, "--value", "my_parts:Typed", "--train-frequency", "7/2")[0] == 0
    assert fastdqn.load_policy(run) is not None


def test_a_torso_passed_from_python_replaces_the_name_in_a_lone_weights_file(tmp_path):
    run = fastdqn.train(small(tmp_path), torso="my_parts:Layer")
    lone = tmp_path / "policy.safetensors"
    lone.write_bytes((run.folder / "policy.safetensors").read_bytes())
    torso = sys.modules["my_parts"].Layer((4,), 1)
    forget()
    with pytest.raises(ValueError, match=r"only the config\.json of its run may name a module"):
        fastdqn.load_policy(lone)
    obs = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
    actions = fastdqn.load_policy(lone, torso=torso)(obs)
    assert "my_parts" not in sys.modules
    assert (actions == fastdqn.load_policy(run.folder)(obs)).all()
    with pytest.raises(fastdqn.ConfigError, match=r"torso is 'my_parts:Layer', not an nn\.M"):
        fastdqn.load_policy(lone, torso="my_parts:Layer")  # type: ignore[arg-type]


# -- objects from Python


class Importable(ScalarValue):
    """A value that another process can import."""


def local_parts() -> dict:
    """Parts that no other process can import."""

    class Local(RMSProp):
        pass

    return {
        "value": ScalarValue(huber),
        "sampler": UniformSampler(seed=5),
        "optimizer": Local,
        "learning_rate_schedule": lambda steps, episodes: 1e-3 / (1 + episodes),
        "exploration": lambda steps, episodes: 0.5,
    }


def test_objects_train_and_a_resumed_run_needs_them_again(tmp_path):
    config = small(tmp_path)
    whole = fastdqn.train(config, on_step=nothing, run_dir=tmp_path / "whole", **local_parts())
    part = fastdqn.train(config, on_step=stopping_at(300), **local_parts())
    assert part.summary["exit_reason"] == "interrupted"
    written = config_of(part.folder)
    assert {written[name] for name in local_parts()} == {"custom"}

    with pytest.raises(fastdqn.ConfigError) as caught:
        fastdqn.resume(part.folder)
    assert {line.split(" was passed")[0] for line in caught.value.lines} == {
        f"the run's {name}" for name in local_parts()
    }
    code, _, lines = ask("resume", str(part.folder))
    assert code == 2
    assert len(lines) == len(local_parts())

    fastdqn.resume(part.folder, on_step=nothing, **local_parts())
    assert_same_run(whole.folder, part.folder)


@pytest.mark.slow
def test_resume_auto_needs_the_objects_too(tmp_path):
    config = small(tmp_path)
    whole = fastdqn.train(config, on_step=nothing, run_dir=tmp_path / "whole", **local_parts())
    fastdqn.train(config, on_step=stopping_at(300), resume="auto", **local_parts())
    run = fastdqn.train(config, on_step=nothing, resume="auto", **local_parts())
    assert_same_run(whole.folder, run.folder)
    with pytest.raises(fastdqn.ConfigError, match="value is scalar, and custom in the run"):
        fastdqn.train(config.replace(total_timesteps=900), resume="auto")


def test_a_custom_value_is_loaded_with_its_object_only(tmp_path):
    run = fastdqn.train(small(tmp_path), value=ScalarValue(huber))
    with pytest.raises(ValueError, match=r"value is custom, an object from Python") as caught:
        fastdqn.load_policy(run.folder)
    assert "\n" not in str(caught.value)
    assert fastdqn.load_policy(run.folder, value=ScalarValue()) is not None
    code, _, lines = ask("eval", str(run.folder))
    assert (code, len(lines)) == (2, 1)


def test_a_policy_needs_no_loss_optimizer_or_sampler(tmp_path):
    parts = local_parts()
    del parts["value"]
    run = fastdqn.train(small(tmp_path), loss=lambda a, b: (a - b).abs(), **parts)
    assert fastdqn.load_policy(run.folder) is not None
    assert ask("eval", str(run.folder), "--episodes", "1", "--max-steps", "9")[0] == 0


def test_an_object_is_copied(tmp_path):
    sampler = UniformSampler(seed=5)
    before = sampler.rng.copy()
    fastdqn.train(small(tmp_path), sampler=sampler)
    assert (sampler.rng == before).all()


@pytest.mark.slow
def test_an_importable_class_becomes_a_name_that_the_command_line_resumes(tmp_path):
    config = small(tmp_path)
    whole = fastdqn.train(config, run_dir=tmp_path / "whole", value=Importable)
    name = f"{__name__}:Importable"
    with stopping_after(60):
        part = fastdqn.train(config, value=Importable, optimizer=RMSProp)
    assert config_of(part.folder)["value"] == name
    assert config_of(part.folder)["optimizer"] == "fastdqn.learning.rmsprop:RMSProp"
    assert ask("resume", str(part.folder), "--quiet")[0] == 0
    assert ask("eval", str(whole.folder), "--episodes", "1", "--max-steps", "9")[0] == 0


def test_a_torso_of_python_and_one_by_name(tmp_path):
    run = fastdqn.train(small(tmp_path), torso=nn.Linear(4, 6))
    with pytest.raises(ValueError, match="custom torso"):
        fastdqn.load_policy(run.folder)
    other = fastdqn.train(small(tmp_path, run_dir=str(tmp_path / "named")), torso="my_parts:Layer")
    assert config_of(other.folder)["torso"] == "my_parts:Layer"
    assert fastdqn.load_policy(other.folder) is not None


class Unlike(Optimizer):
    """Its learning rate is a number: a schedule could not set it."""

    def __init__(self, weights, gradient, learning_rate):
        self.learning_rate = learning_rate  # type: ignore[assignment]

    def step(self) -> None:
        pass

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}


@pytest.mark.parametrize(("parts", "line"), [
    ({"value": 3}, "value int has no outputs_per_action"),
    ({"sampler": 3}, "sampler int has no wants_priorities"),
    ({"optimizer": 3}, "optimizer int cannot be made"),
    ({"exploration": 0.5}, "exploration float has no __call__"),
    ({"learning_rate_schedule": 0.5}, "learning_rate_schedule float has no __call__"),
    ({"loss": 0.5}, "loss float has no __call__"),
    ({"gamma": 0.5, "backup": 0.5}, "backup float has no asks_target_next"),
])  # fmt: skip
def test_an_object_that_is_no_part_is_one_line(tmp_path, parts, line):
    with pytest.raises(fastdqn.ConfigError) as caught:
        fastdqn.train(small(tmp_path), **parts)
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(line)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("option", "part", "line"), [
    ("optimizer", Unlike,
     f"optimizer '{__name__}:Unlike' has the learning_rate 0.0005: it must be a tensor, "
     "which schedules change"),
    ("exploration", lambda steps, episodes: 1.5, "exploration returns 1.5 at step 0: it must "
     "return a number in [0, 1], or an array with one for each of 4 environments"),
    ("exploration", lambda steps, episodes: np.zeros(3), "exploration returns [0. 0. 0.] at step"),
    ("exploration", lambda steps, episodes: None, "exploration returns None at step 0"),
    ("exploration", lambda steps, episodes: "much", "exploration returns much at step 0"),
    ("learning_rate_schedule", lambda steps, episodes: None,
     "learning_rate_schedule returns None at step 0: it must return a number of at least 0"),
    ("learning_rate_schedule", lambda steps, episodes: float("nan"),
     "learning_rate_schedule returns nan at step 0: it must"),
    ("learning_rate_schedule", lambda steps, episodes: -1, "learning_rate_schedule returns -1 at"),
    ("learning_rate_schedule", lambda steps, episodes: 1e-3 / steps,
     "learning_rate_schedule fails at step 0: ZeroDivisionError"),
    ("exploration", lambda steps, episodes: {}[steps], "exploration fails at step 0: KeyError"),
])  # fmt: skip
def test_a_part_that_answers_wrongly_is_found_before_the_run(tmp_path, option, part, line):
    with pytest.raises(fastdqn.ConfigError) as caught:
        fastdqn.train(small(tmp_path), **{option: part})
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(line)
    assert not (tmp_path / "run").exists()


def test_an_option_is_not_a_part_of_resume(tmp_path):
    run = fastdqn.train(small(tmp_path))
    with pytest.raises(fastdqn.ConfigError, match="gamma cannot change"):
        fastdqn.resume(run.folder, gamma=0.5)
    with pytest.raises(fastdqn.ConfigError, match="the run had none: leave it out"):
        fastdqn.resume(run.folder, value=ScalarValue(), total_timesteps=900)
