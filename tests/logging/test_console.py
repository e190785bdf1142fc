"""Console displays: a panel, plain lines, or nothing."""

import io
import itertools
import re
import sys
import types

import pytest
from rich.console import Console

from fastdqn.logging.console import LivePanel, PlainLines, duration_text, make_display
from fastdqn.logging.eta import ETA

STATUS = {
    "steps": 12345, "episodes": 67, "updates": 890, "return": 123.4, "eval_return": None,
    "loss": 0.0321, "epsilon": 0.456, "fps": 7890.0, "env_rate": 43210.0, "learner_rate": 654.0,
    "averaged": 12, "fraction": 0.4, "seconds_left": 3723.0,
    "shares": {"learn": 0.75, "env": 0.25, "save": 0.001},
}  # fmt: skip


def screen(terminal: bool, width: int = 120) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=terminal, width=width, color_system=None, soft_wrap=True
    )
    return console, file


def test_the_panel_shows_return_rates_shares_and_time_left():
    console, file = screen(terminal=True)
    panel = LivePanel(console, "fastdqn CartPole-v1")
    panel.show(STATUS)
    panel.say("weights [saved]")
    panel.close()
    parts = (
        "fastdqn CartPole-v1", "123.4 (mean of 12)", "epsilon", "0.456", "12,345", "67 episodes",
        "loss 0.0321",
        "7,890 steps/s", "43,210 steps/s alone", "654 updates/s alone", "1:02:03", "learn", " 75%",
        " 25%", "weights [saved]",
    )  # fmt: skip
    assert [part for part in parts if part not in file.getvalue()] == []
    assert "save" not in file.getvalue().replace("[saved]", "")  # too small a share to draw


@pytest.mark.parametrize("width", [80, 200])
def test_the_panel_fits_its_terminal_without_wrapping(width):
    console, file = screen(terminal=True, width=width)
    panel = LivePanel(console, "fastdqn CartPole-v1")
    large = {"steps": 123_456_789, "episodes": 1_234_567, "updates": 30_864_197, "fps": 1_234_567.0}
    shares = {"prioritize": 0.5, "evaluate": 0.25, "learn": 0.25}
    panel.show({**STATUS, **large, "shares": shares})
    panel.close()
    lines = [line.rstrip() for line in file.getvalue().replace("\x1b[?25l", "").splitlines()]
    drawn = [line for line in lines if "│" in line]
    assert max(map(len, drawn)) <= min(width, 100)
    assert any("123,456,789  in 1,234,567 episodes" in line for line in drawn)
    assert any("prioritize" in line and "50%" in line for line in drawn)
    assert any("43,210 steps/s alone" in line for line in drawn)


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.01, "0:36"), (99.9, "99:54:00"), (100, "4 days"), (23_999, "1000 days"), (24_000, "-"),
     (171_040_660.7, "-")],
)  # fmt: skip
def test_a_long_time_left_is_in_days_or_not_shown(hours, text):
    assert duration_text(3_600 * hours) == text


def test_the_panel_draws_a_run_without_metrics():
    console, file = screen(terminal=True)
    panel = LivePanel(console, "fastdqn")
    unknown = dict.fromkeys(("return", "eval_return", "loss", "seconds_left"))
    panel.show({**STATUS, **unknown, "shares": {}, "fraction": 0.0})
    panel.close()
    assert "return" in file.getvalue()


def test_the_panel_is_redrawn_at_a_limited_rate_and_always_at_the_end(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("fastdqn.logging.console.time.monotonic", lambda: now[0])
    console, file = screen(terminal=True)
    panel = LivePanel(console, "fastdqn")
    panel.show(STATUS)
    now[0] += 0.05
    panel.show({**STATUS, "steps": 22222})
    panel.show({**STATUS, "steps": 33333}, final=True)
    panel.close()
    assert "22,222" not in file.getvalue()
    assert "33,333" in file.getvalue()


def test_drawing_the_panel_takes_at_most_a_twentieth_of_the_time(monkeypatch):
    now, console = [0.0], screen(terminal=True)[0]
    monkeypatch.setattr("fastdqn.logging.console.time.monotonic", lambda: now[0])
    panel, draws = LivePanel(console, "fastdqn"), []

    def draw(*args, **kwargs):
        now[0] += 0.2
        draws.append(now[0])

    monkeypatch.setattr(panel._live, "update", draw)
    while now[0] < 100.0:
        panel.show(STATUS)
        now[0] += 0.01
    panel.close()
    assert 24 <= len(draws) <= 26


def test_without_a_terminal_there_are_plain_lines_every_two_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("fastdqn.logging.console.time.monotonic", lambda: now[0])
    console, file = screen(terminal=False)
    lines = PlainLines(console)
    for row, seconds in enumerate((0.0, 1.5, 1.0, 0.1)):
        now[0] += seconds
        lines.show({**STATUS, "steps": STATUS["steps"] + row})
    for _ in range(2):  # the end of training, and the end of the final evaluation
        lines.show({**STATUS, "steps": 13_000, "return": None, "env_rate": None}, final=True)
    lines.say("run folder: runs/[x]")
    lines.close()
    text = file.getvalue().splitlines()
    assert len(text) == 4
    assert text[0] == (
        "step    12,345  return 123.4 (mean of 12)  epsilon 0.456  7,890 steps/s  env 43,210/s  "
        "learner 654/s  left 1:02:03"
    )
    assert "return -" in text[2]
    assert "env " not in text[2]  # with actors, whose environments step elsewhere
    assert text[3] == "run folder: runs/[x]"


@pytest.mark.parametrize(
    ("variables", "panel"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm", "CI": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True),
    ],
)
def test_a_terminal_gets_a_panel_if_it_can_be_redrawn_and_respects_no_color(
    monkeypatch, variables, panel
):
    file = io.StringIO()
    file.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", file)
    for name in ("TERM", "NO_COLOR", "FORCE_COLOR", "COLORTERM", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    display = make_display("title", quiet=False)
    display.show(STATUS, final=True)
    display.close()
    assert ("╭" in file.getvalue()) is panel
    coloured = re.search(r"\x1b\[[1-9]\d*m", file.getvalue())
    assert bool(coloured) is (panel and "NO_COLOR" not in variables)


def test_the_eta_uses_the_second_half_of_the_elapsed_time():
    left = ETA()
    assert left(3.0, 0.1) is None  # whatever came before
    assert left(4.0, 0.2) == pytest.approx(8.0)
    seconds = None
    # A tenth took a second; from there on a hundredth takes one.
    for second in range(5, 63):
        seconds = left(float(second), 0.2 + 0.01 * (second - 4))
    assert seconds == pytest.approx(100 - 20 - 58)  # what is left at that pace
    assert len(left._samples) < 60
    assert left(70.0, 1.0) == 0.0


def test_the_eta_is_unknown_until_learning_has_been_measured_for_a_while():
    left = ETA()
    assert left(1.0, 0.1) is None
    assert left(1.0, 0.1) is None  # the same row again
    assert left(2.0, 0.103) is None
    assert left(2.5, 0.106) == pytest.approx(0.894 * 1.5 / 0.006)
    slow = ETA()
    assert slow(1.0, 0.1) is None
    assert slow(6.0, 0.1001) == pytest.approx(0.8999 * 5.0 / 0.0001)


@pytest.mark.parametrize("first", [10_000, 9_990, 9_500, 500, 90_000], ids="learns from {}".format)
@pytest.mark.parametrize("evaluation", [(1_000_000, 0.0), (5_000, 10.0), (20_000, 60.0)])
@pytest.mark.parametrize("resumed_at", [0, 50_000])
def test_the_eta_never_changes_by_more_than_a_factor_of_two(first, evaluation, resumed_at):
    """Random steps are 50 times as fast as those that learn, and later ones slower by half."""
    every, seconds = evaluation
    left, shown, row = ETA(), [], 500
    elapsed = aside = 0.0
    for step in range(row, 100_000, row):
        learned = min(row, max(0, step - first))
        elapsed += (row - learned) * 2e-5 + learned * 1e-3 * (1 + step / 200_000)
        if step % every == 0:
            elapsed, aside = elapsed + seconds, aside + seconds
        if learned and step > resumed_at:
            shown.append((elapsed, left(elapsed, step / 100_000, aside)))
    assert shown[0][1] is None
    known = [seconds for _, seconds in shown[1:-2] if seconds]  # the last rows halve what is left
    assert len(known) == len(shown) - 3
    assert all(0.5 < b / a < 2 for a, b in itertools.pairwise(known))
    if not evaluation[1]:  # otherwise the truth jumps by whole evaluations
        then, left_then = shown[len(shown) * 3 // 4]
        assert left_then == pytest.approx(elapsed - then, rel=0.25)


def test_a_pipe_gets_plain_lines_and_quiet_prints_nothing(capsys):
    make_display("title", quiet=False).say("a line")
    assert capsys.readouterr().out == "a line\n"
    display = make_display("title", quiet=True)
    display.show(STATUS)
    display.say("anything")
    display.close()
    assert capsys.readouterr() == ("", "")


class ZMQInteractiveShell:
    """Stands for the shell of a notebook's kernel."""


class ColabShell(ZMQInteractiveShell):
    """Stands for a hosted notebook, which has a subclass."""


class Handle:
    def __init__(self, shown):
        self._shown = shown

    def update(self, data, raw):
        assert raw
        self._shown[-1].append(data["text/plain"])


@pytest.mark.parametrize("shell", [ZMQInteractiveShell(), ColabShell(), object(), None])
def test_a_notebook_gets_one_line_that_is_redrawn(monkeypatch, capsys, shell):
    shown: list[list[str]] = []

    def display(data, raw, display_id):
        assert raw
        assert display_id
        shown.append([data["text/plain"]])
        return Handle(shown)

    ipython = types.SimpleNamespace(
        get_ipython=lambda: shell, display=types.SimpleNamespace(display=display)
    )
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    display_of_run = make_display("fastdqn", quiet=False)
    for steps in (10, 20, 30):
        display_of_run.show({**STATUS, "steps": steps}, final=True)
    display_of_run.say("evaluation: return 9")
    display_of_run.show({**STATUS, "steps": 40}, final=True)
    display_of_run.close()
    out = capsys.readouterr().out
    if not isinstance(shell, ZMQInteractiveShell):
        assert not shown
        assert out.count("step ") == 4
        return
    assert [len(lines) for lines in shown] == [3, 1]
    assert "step        30" in shown[0][-1]
    assert out == "evaluation: return 9\n"
