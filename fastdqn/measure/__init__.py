"""Bench and profile: each room measured alone, and all together."""
