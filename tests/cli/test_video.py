"""fastdqn video: the film, what stands beside the screen, and every way to be refused."""

import importlib.util
import json
import subprocess

import gymnasium
import numpy as np
import pytest

import fastdqn
from fastdqn.cli import main as cli
from fastdqn.report.mp4 import write_film
from fastdqn.report.video_frame import Panel, enlarged
from helpers.walk_env import Walk

pytest.importorskip("imageio_ffmpeg")
imageio = pytest.importorskip("imageio.v2")


@pytest.fixture(autouse=True, scope="module")
def walk():
    gymnasium.register("Walk-v0", lambda **given: Walk(**given), max_episode_steps=20)
    yield
    del gymnasium.registry["Walk-v0"]


@pytest.fixture(autouse=True, scope="module")
def encoder(tmp_path_factory):
    """A first film, for which imageio_ffmpeg starts programs that later ones do not need."""
    write_film(tmp_path_factory.mktemp("film") / "a.mp4", [np.zeros((16, 16, 3), np.uint8)], 10)


@pytest.fixture(scope="module")
def run(tmp_path_factory, walk):
    folder = tmp_path_factory.mktemp("runs") / "run"
    fastdqn.train(
        "Walk-v0", total_timesteps=400, learning_starts=50, eval_episodes=2, hidden_sizes=(8,),
        run_dir=str(folder), tensorboard=False, num_envs=2,
    )  # fmt: skip
    return folder


def ask(capsys, *words) -> tuple[int, str, str]:
    code = cli.main(["video", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.slow
def test_a_film_holds_every_step_and_a_second_of_each_ending(run, tmp_path, capsys):
    out = tmp_path / "film.mp4"
    code, said, err = ask(capsys, run, "--episodes", 2, "--out", out)
    assert (code, err) == (0, "")
    steps = [int(word) for word in said.replace(",", " ").split() if word.isdigit()][1::2][:2]
    assert cli.main(["eval", str(run), "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_length"] == np.mean(steps)  # the same ones
    film = imageio.get_reader(out)
    meta = film.get_meta_data()
    assert (meta["fps"], meta["codec"]) == (12, "h264")
    assert film.count_frames() == sum(steps) + 2 * 12
    width, height = meta["size"]
    assert (width % 2, height % 2) == (0, 0)
    first = film.get_data(0)
    film.close()
    # A strip of 4 x 11 squares, with one of its columns white.
    lit = first[height // 2, : 11 * 120 : 120]
    assert (lit.min(axis=1) > 200).sum() == 1
    assert f"written: {out}" in said
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.slow
def test_the_film_of_a_run_lies_in_it(run, capsys):
    assert ask(capsys, run, "--episodes", 1, "--max-steps", 1)[0] == 0
    assert [path.name for path in (run / "video").iterdir()] == ["best.mp4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "no/such/folder/x.mp4"], "out is 'no/such/folder/x.mp4': give a file"),
        (["--out", "film.avi"], "out is 'film.avi': it must end in .mp4"),
        (["--episodes", "0"], "episodes is 0"),
        (["--max-steps", "0"], "max_steps is 0"),
        (["--episods", "1"], "unknown option '--episods': did you mean --episodes?"),
        (["--env-id", "Acrobot-v1"], "Acrobot-v1 has observations (6,) and 3 actions, and the"),
        (["--env-id", "Wolk-v0"], "no environment is registered as 'Wolk-v0'"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, monkeypatch, words, says, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = ask(capsys, run, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {says}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_there_is_one_line(capsys):
    code, out, err = ask(capsys, "nowhere")
    assert (code, out) == (2, "")
    assert err == "error: nowhere/policy.safetensors does not exist\n"


def test_missing_extras_name_the_pip_line(run, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "fastdqn.report.mp4.find_spec",
        lambda name: None if name.startswith("imageio") else find_spec(name),
    )
    code, _, err = ask(capsys, run)
    assert code == 2
    assert err == "error: imageio_ffmpeg not installed: pip install 'fastdqn[video]'\n"


@pytest.mark.parametrize("failure", [ValueError("no\npaint"), KeyboardInterrupt()])
def test_a_film_that_fails_leaves_nothing_half_written(run, tmp_path, failure, capsys, monkeypatch):
    def render(self):
        if self.place < 5:
            return np.zeros((4, 4, 3), np.uint8)
        raise failure

    monkeypatch.setattr(Walk, "render", render)
    old = tmp_path / "old.mp4"
    old.write_text("as it was")
    code, out, err = ask(capsys, run, "--out", old)
    assert (code, out) == (130 if isinstance(failure, KeyboardInterrupt) else 2, "")
    assert err.count("\n") == (code == 2)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["as it was"]


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["nan", "no number"])
def test_an_environment_that_fails_in_a_film_is_code_1(run, tmp_path, reward, capsys, monkeypatch):
    step = Walk.step

    def failing(self, action):
        obs, _, *rest = step(self, action)
        return obs, float(reward), *rest

    monkeypatch.setattr(Walk, "step", failing)
    code, out, err = ask(capsys, run, "--out", tmp_path / "a.mp4")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: env 0, step 1")
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_different_sizes_are_refused(tmp_path):
    sizes = [np.zeros((n, 16, 3), np.uint8) for n in (16, 32)]
    with pytest.raises(ValueError, match="frame 1 is 16 x 32, the earlier ones 16 x 16"):
        write_film(tmp_path / "a.mp4", sizes, 10)


@pytest.mark.slow
def test_an_encoder_that_fails_is_an_error_that_says_so(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fastdqn.report.mp4._ENCODER", ["-c:v", "no such"])
    code, out, err = ask(capsys, run, "--out", tmp_path / "a.mp4")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: cannot write {tmp_path / 'a.mp4'}: ffmpeg failed; ")
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_lacks_pictures_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("imageio_ffmpeg.count_frames_and_secs", lambda path: (2, 0.2))
    with pytest.raises(OSError, match="ffmpeg wrote 2 of 3 frames"):
        write_film(tmp_path / "a.mp4", [np.zeros((16, 16, 3), np.uint8)] * 3, 10)


def test_a_film_that_cannot_be_read_back_has_failed(tmp_path, monkeypatch):
    def count(path):
        raise RuntimeError("FFMPEG call failed")

    monkeypatch.setattr("imageio_ffmpeg.count_frames_and_secs", count)
    with pytest.raises(OSError, match="ffmpeg failed"):
        write_film(tmp_path / "a.mp4", [np.zeros((16, 16, 3), np.uint8)] * 3, 10)


@pytest.mark.parametrize("at", ["first picture", "third picture", "end"])
def test_an_interrupted_film_leaves_no_encoder(tmp_path, monkeypatch, at):
    started, wait = [], subprocess.Popen.wait

    def interrupted(process, timeout=None):
        started.append(process)
        if at == "end" and len(started) == 1:
            raise KeyboardInterrupt
        return wait(process, timeout)

    def pictures():
        for count in range(3):
            if at == ("first picture", "", "third picture")[count]:
                raise KeyboardInterrupt
            yield np.zeros((16, 16, 3), np.uint8)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_film(tmp_path / "a.mp4", pictures(), 10)
    assert len(started) == {"first picture": 0, "third picture": 1, "end": 2}[at]
    assert all(process.returncode is not None for process in started)


def test_an_encoder_that_does_not_end_is_ended(tmp_path, monkeypatch):
    waited, wait = [], subprocess.Popen.wait

    def late(process, timeout=None):
        waited.append(process)
        if len(waited) == 1:
            raise subprocess.TimeoutExpired("ffmpeg", timeout or 0)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", late)
    with pytest.raises(OSError, match="ffmpeg did not exit within 300 s"):
        write_film(tmp_path / "a.mp4", [np.zeros((16, 16, 3), np.uint8)] * 3, 10)
    assert waited[0].returncode is not None


def test_no_pictures_are_no_film(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_film(tmp_path / "a.mp4", [], 10)


def test_a_program_that_is_not_there_is_reported_before_anything_is_played(
    run, monkeypatch, capsys
):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "no-such-ffmpeg")
    assert ask(capsys, run) == (
        2,
        "",
        "error: no-such-ffmpeg is not an executable program: install ffmpeg, or set "
        "IMAGEIO_FFMPEG_EXE\n",
    )


def bars(drawn: np.ndarray, colour) -> np.ndarray:
    """How many pixels of a colour each row of a drawing has."""
    return (np.abs(drawn.astype(int) - colour).max(2) == 0).sum(1)


def test_bars_are_as_long_as_values_and_the_chosen_one_has_another_colour():
    drawn = Panel(["a", "b", "c"]).draw(
        np.zeros((240, 100, 3), np.uint8), np.array([1.0, 3.0, 2.0]), 1, ["one", "two"]
    )
    assert drawn.shape == (480, 520, 3)
    chosen, plain = bars(drawn, (255, 166, 43)), bars(drawn, (83, 110, 150))
    longest = int(chosen.max())
    lengths = [n for n in np.unique(plain) if n > 0]
    assert lengths[-1] == pytest.approx(longest / 2, abs=12)  # the marker is 8 wide
    assert lengths[0] <= 3
    assert plain.argmax() > chosen.argmax() > 66  # c below b


@pytest.mark.slow
def test_values_that_are_not_allowed_or_all_equal_or_many_are_drawn():
    picture = np.zeros((33, 31, 3), np.uint8)
    panel = Panel([f"action {i}" for i in range(500)])
    values = np.zeros(500, np.float32)
    values[3] = -np.inf
    drawn = panel.draw(picture, values, None, ["", ""])
    assert drawn.shape[0] % 2 == drawn.shape[1] % 2 == 0
    assert drawn.shape[0] < 1000
    assert bars(drawn, (255, 166, 43)).sum() == 0
    nothing = Panel(["a"]).draw(picture, np.array([-np.inf]), None, ["", ""])
    assert bars(nothing, (83, 110, 150)).sum() == 0


@pytest.mark.parametrize(("height", "times"), [(10, 48), (210, 2), (400, 1), (1000, 1)])
def test_small_screens_are_enlarged_by_whole_numbers(height, times):
    picture = np.arange(height * 6, dtype=np.int64).reshape(height, 2, 3).astype(np.uint8)
    large = enlarged(picture)
    assert large.shape == (height * times, 2 * times, 3)
    np.testing.assert_array_equal(large[::times, ::times], picture)
