"""Fixtures of the tests with a Ray cluster."""

import pytest

from helpers.sweeps import trained

__all__ = ["caches", "cluster", "trained"]


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """The cache folders of the nodes."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="module")
def cluster(caches):
    """Two nodes on this machine, to which this process is connected."""
    pytest.importorskip("ray", reason="needs the extra ray")
    from helpers.clusters import two_nodes

    with two_nodes(caches) as found:
        yield found
