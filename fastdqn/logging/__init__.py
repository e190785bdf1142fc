"""Metrics of a running training: sinks, rows, console, ETA."""
