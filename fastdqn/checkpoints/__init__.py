"""Checkpoints and weights on disk: format, writing, checked reading."""
