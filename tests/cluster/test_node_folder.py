"""NodeFolder: who holds it, the copy that it names, and its end."""

import pytest

from fastdqn.cluster.node_folder import NodeFolder


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes folders of the same node. They are held until the end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda name="host:/study/base/seed-1": NodeFolder(name)


def test_one_process_holds_a_folder_at_a_time(made):
    first, second = made(), made()
    assert first.take()
    assert not second.take()
    assert made("host:/study/base/seed-2").take()
    first.release()
    assert second.take()


def test_a_copy_is_known_by_its_name_alone(made):
    folder = made()
    folder.take()
    assert not folder.holds("")
    folder.run.mkdir()
    folder.name("a")
    assert folder.holds("a")
    assert not made("other").holds("a")
    assert not folder.holds("b")
    folder.clear()
    assert not folder.holds("a")
    assert not folder.run.exists()


def test_a_folder_that_is_deleted_leaves_nothing_and_can_be_made_again(made, tmp_path):
    folder = made()
    folder.take()
    folder.run.mkdir()
    (folder.run / "config.json").touch()
    folder.log.touch()
    folder.name("a")
    folder.delete()
    assert list((tmp_path / "fastdqn" / "runs").iterdir()) == []
    folder.release()
    again = made()
    assert again.take()
    assert not again.holds("a")
