"""ProcessGroup: what two processes exchange, and how an error of one ends the other."""

import functools

import pytest

from fastdqn.config.schema import ConfigError
from fastdqn.ranks.one_rank import ONE_RANK
from fastdqn.ranks.torchrun import local_rank, rank_index, world_size
from helpers.ranks import empty_step, run_ranks


@functools.cache
def said() -> list[dict]:
    return run_ranks("helpers.ranks:answers")


@pytest.mark.slow
def test_steps_and_episodes_of_all_ranks_are_counted_in_one_exchange():
    for each in said():
        assert each["steps"] == 7
        assert each["phases"] == ["ranks"]
        # Environments 0 and 3 of the second rank, which has four like the first.
        assert each["ended"] == [[4, 7], [0.0, 30.0], [1, 4]]
        assert each["info"] == {"is_success": [0.0, 1.0]}
        assert each["again"] == (8, 0, "stopped by on_step")
    assert [each["end"] for each in said()] == ["", ""]


@pytest.mark.slow
def test_a_wish_or_a_busy_writer_of_one_rank_counts_for_all_from_the_exchange_on():
    for each in said():
        assert each["before"] == (False, True, 0.0)
        assert each["agreed"] == (True, False, False)  # stop, checkpoint, ready
    one, other = (each["clock"] for each in said())
    assert one == other > 0.0


@pytest.mark.slow
def test_numbers_results_and_names_of_the_ranks():
    for each in said():
        assert each["numbers"] == ((0.5, 5.0), 0)
        assert each["first"] == "of rank 0"
        assert each["common"] == ("b", None)
    assert [each["together"] for each in said()] == [0, 1]


@pytest.mark.slow
def test_an_error_of_one_rank_is_reported_once_by_the_first():
    assert [each["mistaken"] for each in said()] == [
        ("ConfigError", "no device"), ("ConfigError", "")
    ]  # fmt: skip


@pytest.mark.slow
def test_different_weights_end_the_run_with_one_line():
    line = (
        "the weights of rank 1 differ from those of rank 0, checksums 1 and 0: resume from the "
        "last checkpoint, on equal machines"
    )
    assert [each["unequal"] for each in said()] == [("RanksError", line)] * 2


@pytest.mark.slow
def test_a_rank_that_ends_ends_the_others_within_seconds_with_one_line():
    name, line = said()[0]["abandoned"]
    assert name == "RanksError"
    assert line.startswith("another rank has ended or cannot be reached (")
    assert line.endswith("), so this one ends. The message of the other rank says why")
    assert "\n" not in line
    assert said()[0]["seconds"] < 5


def test_a_single_process_exchanges_nothing():
    step, phases = empty_step(3, [1]), []
    assert ONE_RANK.exchange(step, phases.append) == (3, step, "")
    assert phases == []
    assert ONE_RANK.end("over") == "over"
    assert ONE_RANK.common(["a", "b"]) == "b"
    assert ONE_RANK.common([]) is None


def test_the_numbers_of_torchrun_are_read_from_the_environment(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "3")
    assert (world_size(), rank_index(), local_rank()) == (1, 0, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (world_size(), rank_index(), local_rank()) == (4, 3, 1)
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ConfigError, match="WORLD_SIZE of the environment is 'many'"):
        world_size()
