"""Scripted episodes for tests of the stream."""

from helpers.oracles import (
    BOTH,
    TERMINATED,
    TRUNCATED,
)

SCRIPTS = [
    [(1, TERMINATED), (3, TRUNCATED), (1, BOTH), (1, TRUNCATED)],
    [(4, TRUNCATED), (2, TERMINATED)],
    [(1, TRUNCATED)],
    [(9, BOTH)],
]
