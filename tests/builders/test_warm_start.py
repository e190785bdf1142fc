"""Runs that start from another: values in weights, optimizer and replay, not only exit codes."""

import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import fastdqn
from fastdqn import ConfigError
from fastdqn.builders import build
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.checkpoints.network_weights import load_weights
from fastdqn.cli.main import main
from fastdqn.config.schema import Config
from fastdqn.datasets import save_npz
from fastdqn.logging.console import Silent
from fastdqn.replay import PrioritizedSampler
from fastdqn.replay.ring import LIVE, OPEN, TERMINATED, TRUNCATED
from fastdqn.study.study_folder import Study, Variant, write_study
from fastdqn.tabular.config import TableConfig
from helpers.loop import small
from helpers.setups import setup_of

PER = {"prioritized": True, "n_steps": 2}


class Counted(gymnasium.Env):
    """Walks from 0 to 5 and counts the steps of all environments. Observations tell the steps."""

    observation_space = spaces.Box(0, 100, (2,), np.float32)
    action_space = spaces.Discrete(3)
    steps = 0

    def __init__(self, longest=9):
        self._longest = longest

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._place, self._made = int(self.np_random.integers(3)), 0
        return self._obs(), {}

    def step(self, action):
        Counted.steps += 1
        self._place, self._made = self._place + int(action), self._made + 1
        ended = self._place >= 5
        return self._obs(), float(action) / 2, ended, self._made >= self._longest, {}

    def _obs(self):
        return np.array([self._place, self._made], np.float32)


@pytest.fixture(autouse=True, scope="module")
def counted():
    gymnasium.register("Counted-v0", lambda **_: Counted())
    yield
    del gymnasium.registry["Counted-v0"]


def new(folder, **options) -> Config:
    fixed = {"env_id": "Counted-v0", "final_evaluation": False, "buffer_size": 1_500}
    return small(folder, **{**fixed, **options})


@pytest.fixture(scope="module", params=[{}, PER], ids=["uniform", "prioritized"])
def source(request, tmp_path_factory, counted):
    """A trained run: its folder and options."""
    config = new(tmp_path_factory.mktemp("source"), normalize_observation=True, **request.param)
    return fastdqn.train(config).folder, request.param


def built(config: Config):
    """Returns a run that is ready for its first step."""
    session = build.build(setup_of(config), lambda _: Silent())
    session.close()
    return session.run, session.notes


def transitions(replay):
    """Returns the stored transitions as sorted rows: obs, action, reward, status."""
    ring = replay.ring
    live = (ring.status & LIVE) > 0
    slots = np.flatnonzero(live)
    obs = np.empty((len(slots), *replay.store.obs_shape), np.float32)
    replay.store.gather(slots, obs)
    columns = (obs, ring.action[live][:, None], ring.reward[live][:, None])
    status = ring.status[live][:, None] & ~np.uint8(TRUNCATED)  # open episodes end as truncated
    rows = np.concatenate([*columns, status], axis=1)
    return rows[np.lexsort(rows.T)]


def leaves_of(run):
    assert isinstance(run.replay.sampler, PrioritizedSampler)
    return run.replay.sampler.tree.leaves


def arrays_of(folder):
    return load_checkpoint(folder).weights


def test_weights_optimizer_statistics_and_replay_are_those_of_the_source(source, tmp_path):
    folder, same = source
    run, notes = built(
        new(tmp_path, from_run=str(folder), normalize_observation=True, learning_rate=1e-4, **same)
    )
    given, learner = arrays_of(folder), run.learner
    for name, tensor in learner._tensors().items():
        if name.startswith(("weights", "buffers", "target", "optimizer")):
            expected = 1e-4 if name == "optimizer_learning_rate" else given[name]
            assert np.array_equal(tensor.numpy(), np.float32(expected)), name
    assert learner.optimizer.tensors()["steps"] == given["optimizer_steps"] > 0
    assert (learner.updates, run.progress.steps) == (0, 0)
    state = load_checkpoint(folder).state
    counts = [
        each["obs"]["count"] for each in (run.followers["normalizer"].state(), state["normalizer"])
    ]
    assert counts[0] == counts[1]
    assert run.progress.prefilled == len(transitions(run.replay)) > 400
    assert not (run.replay.ring.status & OPEN).any()  # no open episode
    if same:
        leaves = state["replay"]["sampler"]["leaves"]
        kept = leaves > 0
        assert np.array_equal(leaves_of(run)[kept], leaves[kept])
        assert len(np.unique(leaves[kept])) > 10
    assert any("transitions" in line for line in notes)


def test_a_replay_of_another_layout_has_the_same_transitions(source, tmp_path):
    folder, same = source
    one, _ = built(new(tmp_path / "one", from_run=str(folder), normalize_observation=True, **same))
    other = {"num_envs": 2, "normalize_observation": True, **same}
    two, notes = built(new(tmp_path / "two", from_run=str(folder), **other))
    assert np.array_equal(transitions(two.replay), transitions(one.replay))
    priorities = [line for line in notes if line.startswith("not taken: priorities")]
    if same:
        assert priorities == ["not taken: priorities, since num_envs is 4 there and 2 here"]
        assert set(np.unique(leaves_of(two))) == {0.0, 1.0}
    else:
        assert not priorities


def test_prefill_from_a_run_has_the_same_transitions(source, tmp_path):
    folder, same = source
    taken, _ = built(
        new(tmp_path / "taken", from_run=str(folder), from_parts=("replay",), num_envs=3, **same)
    )
    filled, notes = built(new(tmp_path / "filled", prefill=(str(folder),), num_envs=3, **same))
    assert np.array_equal(transitions(filled.replay), transitions(taken.replay))
    fresh, _ = built(new(tmp_path / "fresh", num_envs=3, **same))
    for run in (taken, filled):  # the network is new
        assert (run.learner.online.weights == fresh.learner.online.weights).all()
    count = len(transitions(filled.replay))
    assert f"prefilled with {count:,} transitions" in "\n".join(notes)


def test_initial_weights_are_those_of_the_file(source, tmp_path):
    folder, same = source
    config = new(tmp_path, init_weights=str(folder), normalize_observation=True, **same)
    run, _ = built(config)
    arrays = load_weights(folder / "policy.safetensors")[0]
    for name, tensor in run.learner.online.module.state_dict().items():
        assert np.array_equal(tensor.numpy(), arrays[name]), name
    assert (run.learner.target.weights == run.learner.online.weights).all()
    assert run.learner.optimizer.tensors()["steps"] == 0


def test_initial_weights_keep_their_normalization(source, tmp_path):
    folder, same = source
    run, _ = built(new(tmp_path, init_weights=str(folder), normalize_observation=True, **same))
    arrays = load_weights(folder / "policy.safetensors")[0]
    means = [name for name in arrays if name.endswith("obs_mean")]
    obs = run.stream.obs
    assert run.start is not None
    run.followers["normalizer"].follow(run.start)
    for name in means:  # 4 observations beside 10,000
        moved = run.learner.online.module.state_dict()[name].numpy()
        expected = (10_000 * arrays[name] + obs.sum(0)) / 10_004
        assert np.allclose(moved, expected, rtol=1e-5)
    assert means


@pytest.mark.parametrize("option", ["init_weights", "from_run"])
def test_a_network_that_differs_is_named(source, tmp_path, option):
    folder, same = source
    config = new(tmp_path, **{option: str(folder)}, **same).replace(hidden_sizes=(9,))
    with pytest.raises(ConfigError, match=r"hidden_sizes is \[8\] there and \[9\] here") as caught:
        fastdqn.train(config.replace(dueling=False))
    assert any("dueling is True there and False here" in line for line in caught.value.lines)
    assert not (tmp_path / "run").exists()


def test_an_optimizer_that_differs_is_named(source, tmp_path):
    folder, same = source
    config = new(tmp_path, from_run=str(folder), normalize_observation=True, **same)
    with pytest.raises(ConfigError, match="optimizer is adam there and radam here"):
        fastdqn.train(config.replace(optimizer="radam"))
    run, _ = built(config.replace(optimizer="radam", from_parts=("weights", "replay")))
    assert np.array_equal(run.learner.online.weights.numpy(), arrays_of(folder)["weights"])


def test_prefilled_transitions_count_for_learning_starts(source, tmp_path):
    folder, same = source
    config = new(tmp_path, prefill=(str(folder),), total_timesteps=100, train_frequency=2, **same)
    run = fastdqn.train(config.replace(learning_starts=50))
    assert run.summary["updates"] == 50
    assert run.summary["episodes"] < 100


def episodes(count=30):
    env, rng = Counted(), np.random.default_rng(1)
    for seed in range(count):
        obs, _ = env.reset(seed=seed)
        rows, terminated, truncated = {"observations": [obs], "actions": [], "rewards": []}, 0, 0
        while not (terminated or truncated):
            action = int(rng.integers(3))
            obs, reward, terminated, truncated, _ = env.step(action)
            rows["observations"].append(obs)
            rows["actions"].append(action)
            rows["rewards"].append(reward)
        ends = np.arange(len(rows["actions"])) == len(rows["actions"]) - 1
        yield {**rows, "terminations": ends * terminated, "truncations": ends * truncated}


def test_an_npz_file_fills_the_replay(tmp_path):
    made = list(episodes())
    save_npz(tmp_path / "data.npz", made)
    run, _ = built(new(tmp_path, prefill=(str(tmp_path / "data.npz"),), **PER))
    rows = [
        [*obs, action, reward, LIVE | TERMINATED * bool(terminated)]
        for each in made
        for obs, action, reward, terminated in zip(
            each["observations"], each["actions"], each["rewards"], each["terminations"],
            strict=False,
        )
    ]  # fmt: skip
    expected = np.array(rows)
    assert np.array_equal(transitions(run.replay), expected[np.lexsort(expected.T)])
    valid = leaves_of(run) > 0
    assert valid.sum() == len(rows)  # every transition may be drawn


def test_more_data_than_the_buffer_holds_is_reported(tmp_path):
    save_npz(tmp_path / "data.npz", episodes(300))
    config = new(tmp_path, prefill=(str(tmp_path / "data.npz"),)).replace(buffer_size=100)
    run, notes = built(config)
    held = run.progress.prefilled
    total = sum(len(each["actions"]) for each in episodes(300))
    assert f"warning: the replay holds {held:,} of the {total:,} transitions" in "\n".join(notes)
    assert 60 < held <= 112


def test_offline_makes_the_updates_of_an_online_run_without_a_step(tmp_path):
    save_npz(tmp_path / "data.npz", episodes())
    data = (str(tmp_path / "data.npz"),)
    Counted.steps = 0
    config = new(tmp_path, prefill=data, offline=True, train_frequency=4, total_timesteps=800)
    run = fastdqn.train(config)
    assert Counted.steps == 0
    assert (run.summary["total_steps"], run.summary["updates"]) == (800, 200)
    assert run.summary["episodes"] == 0
    run = fastdqn.train(config.replace(run_dir=str(tmp_path / "evaluated"), eval_frequency=400))
    assert Counted.steps > 0
    assert len((run.folder / "eval.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("replay", [True, False])
def test_an_offline_run_continues_as_if_it_had_not_stopped(tmp_path, replay):
    save_npz(tmp_path / "data.npz", episodes())
    data = (str(tmp_path / "data.npz"),)
    same = {"prefill": data, "offline": True, "checkpoint_replay": replay}
    whole = fastdqn.train(new(tmp_path / "whole", total_timesteps=800, **same))
    part = fastdqn.train(new(tmp_path / "part", total_timesteps=400, **same))
    rest = fastdqn.resume(part.folder, total_timesteps=800)
    assert rest.summary["updates"] == whole.summary["updates"]
    weights = [(each.folder / "policy.safetensors").read_bytes() for each in (whole, rest)]
    if replay:  # otherwise the sampler's generator starts anew
        assert weights[0] == weights[1]


def test_a_prefilled_run_continues_as_if_it_had_not_stopped(source, tmp_path):
    folder, same = source
    same = {**same, "prefill": (str(folder),), "learning_starts": 1_000}
    whole = fastdqn.train(new(tmp_path / "whole").replace(total_timesteps=800, **same))
    part = fastdqn.train(new(tmp_path / "part").replace(total_timesteps=400, **same))
    rest = fastdqn.resume(part.folder, total_timesteps=800)
    assert rest.summary["updates"] == whole.summary["updates"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"offline": True}, "offline is true, and the run has no data"),
        ({"offline": True, "prefill": ("x.npz",), "total_timesteps": None}, "total_timesteps is N"),
        ({"prefill": ("none.npz",)}, "prefill is '.*none.npz', which does not exist"),
        ({"from_run": "nothing"}, "from_run is '.*nothing', which does not exist"),
        ({"init_weights": "nothing"}, "init_weights is '.*nothing', which does not exist"),
        ({"prefill": ("x.npz",), "replay": False}, "prefill and from_run fill a replay buffer"),
        ({"from_run": "x", "from_parts": ("optimizer",)}, "belongs to the weights. Add weights"),
        ({"from_run": "x", "from_parts": ()}, "from_parts is empty"),
        ({"from_run": "x", "init_weights": "y"}, "both give the weights"),
        ({"from_parts": ("replay",)}, "from_parts is replay, and from_run is None: add --from RUN"),
        ({"from_run": ""}, "from_run is empty: name a run or a file"),
        ({"init_weights": ""}, "init_weights is empty: name a run or a file"),
        ({"prefill": ("",)}, "prefill is empty: name a run or a file"),
        ({"from_parts": ("brain",)}, "must be any of weights, optimizer, replay"),
        ({"prefill": (5,)}, "must be .npz files, run folders, or minari:ID"),
    ],
)
def test_mistakes_are_one_line_each(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        fastdqn.train(new(tmp_path).replace(**options))
    assert all("\n" not in line for line in caught.value.lines)
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_stored_replay_is_one_line(tmp_path):
    run = fastdqn.train(new(tmp_path, checkpoint_replay=False))
    for options in ({"prefill": (str(run.folder),)}, {"from_run": str(run.folder)}):
        with pytest.raises(ConfigError, match="has no replay: its run had --no-checkpoint-replay"):
            fastdqn.train(new(tmp_path / "next", **options))


@pytest.mark.parametrize("how", ["prefill", "from_run"])
def test_a_run_without_transitions_is_one_line(tmp_path, how):
    run = fastdqn.train(new(tmp_path), on_step=lambda progress, step: False)
    first = run.folder / "checkpoints" / "step-000000000000"
    (run.folder / "checkpoints" / "latest").write_text(first.name + "\n")
    value = (str(run.folder),) if how == "prefill" else str(run.folder)
    for offline in (True, False):
        config = new(tmp_path / "next", offline=offline, **{how: value})
        with pytest.raises(ConfigError, match="its sources hold no transitions"):
            fastdqn.train(config)
    assert not (tmp_path / "next" / "run").exists()


def test_a_run_of_another_environment_is_one_line(source, tmp_path):
    folder, same = source
    config = small(tmp_path, final_evaluation=False, prefill=(str(folder),), **same)
    with pytest.raises(ConfigError, match="does not fit this run's environment") as caught:
        fastdqn.train(config)
    (line,) = caught.value.lines
    assert line.endswith("; env_id there: Counted-v0, here: CartPole-v1")
    assert "--checkpoint" not in line


@pytest.fixture
def sized():
    class Sized(Counted):
        def __init__(self, size=2):
            super().__init__()
            self._size, self.observation_space = size, spaces.Box(0, 100, (size,), np.float32)

        def _obs(self):
            return np.full(self._size, self._place, np.float32)

    gymnasium.register("Sized-v0", lambda **kwargs: Sized(**kwargs))
    yield "Sized-v0"
    del gymnasium.registry["Sized-v0"]


def test_other_arguments_of_the_environment_are_named(sized, tmp_path):
    first = new(tmp_path / "first", env_id=sized, env_kwargs={"size": 3}, checkpoint_frequency=200)
    folder = str(fastdqn.train(first).folder)
    said = "env_kwargs there: size=3, here: none"
    for parts in (("weights", "optimizer", "replay"), ("replay",)):
        config = new(tmp_path / "next", env_id=sized, from_run=folder, from_parts=parts)
        with pytest.raises(ConfigError) as caught:
            fastdqn.train(config)
        assert caught.value.lines[-1].endswith(said)
        assert not re.search("--checkpoint|--from-parts|--from_parts", str(caught.value))


@pytest.mark.parametrize("how", ["prefill", "from_run"])
def test_another_environment_with_the_same_spaces_is_a_warning(source, tmp_path, how):
    folder, same = source
    start = {"prefill": (str(folder),)} if how == "prefill" else {"from_run": str(folder)}
    options = {"normalize_observation": True, **start, **same}
    _, notes = built(new(tmp_path / "same", **options))
    assert not [line for line in notes if "another environment" in line]
    _, notes = built(new(tmp_path / "other", env_kwargs={"size": 3}, **options))
    differs = "is a run of another environment; env_kwargs there: none, here: size=3"
    assert f"warning: {folder} {differs}" in notes


@pytest.mark.parametrize("how", ["prefill", "from_run"])
def test_a_damaged_replay_is_not_blamed_on_the_environment(tmp_path, how):
    folder = fastdqn.train(new(tmp_path / "first", checkpoint_frequency=400)).folder
    *_, newest = sorted((folder / "checkpoints" / "segments").iterdir())
    damaged = newest / "reward.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"~")
    value = (str(folder),) if how == "prefill" else str(folder)
    with pytest.raises(ConfigError) as caught:
        fastdqn.train(new(tmp_path / "next", **{how: value}))
    (line,) = caught.value.lines
    assert line.startswith(f"{how} {damaged}: blake2b: the checksum differs")
    *_, before, _ = sorted((folder / "checkpoints").glob("step-*"))
    command = f"fastdqn resume {folder} --checkpoint {before.name} continues from it"
    assert line.endswith(f"; checkpoint {before.name} is intact: {command}")
    with pytest.raises(CheckpointError, match=f"; checkpoint {before.name} is intact: use --ch"):
        fastdqn.resume(folder, total_timesteps=2_000)


@pytest.mark.parametrize("how", ["prefill", "from_run", "init_weights"])
def test_a_folder_that_is_no_run_of_a_network_is_one_line(tmp_path, how):
    study = Study("cartpole", (), (Variant("base", ()), Variant("n-steps-3", ())), (1, 2))
    (tmp_path / "study").mkdir()
    write_study(tmp_path / "study", study)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "config.json").write_text(TableConfig().to_json())
    runs = ", ".join(
        f"{tmp_path}/study/{name}" for name in ("base/seed-1", "n-steps-3/seed-1", "base/seed-2")
    )
    for folder, said in (
        ("study", f", a study: name one of its runs, {runs} and 1 more"),
        ("table", ", a tabular run, which has no network and no replay"),
    ):
        path = str(tmp_path / folder)
        with pytest.raises(ConfigError) as caught:
            fastdqn.train(new(tmp_path, **{how: (path,) if how == "prefill" else path}))
        assert caught.value.lines == [f"{how} is {path!r}{said}"]
    (tmp_path / "study" / "study.json").write_text("[]")
    path = str(tmp_path / "study")
    with pytest.raises(ConfigError, match=r"is not the file of a study \(it is not an object\)$"):
        fastdqn.train(new(tmp_path, **{how: (path,) if how == "prefill" else path}))


@pytest.mark.parametrize("how", ["prefill", "from_run"])
def test_a_folder_without_options_is_reported_with_the_option(tmp_path, how):
    (tmp_path / "empty").mkdir()
    path = str(tmp_path / "empty")
    with pytest.raises(ConfigError) as caught:
        fastdqn.train(new(tmp_path / "run", **{how: (path,) if how == "prefill" else path}))
    (line,) = caught.value.lines
    assert line.startswith(f"{how} {path}")
    assert line.endswith("/config.json: No such file or directory")


def test_parts_without_a_run_to_take_them_from_are_an_error(capsys):
    words = ["train", "CartPole-v1", "--dry-run", "--from-parts", "weights", "optimizer", "replay"]
    assert main(words) == 2
    said = "error: --from-parts needs a run to start from: add --from RUN\n"
    assert capsys.readouterr().err == said
