"""Time: the order of calls, their cadence, and evaluation."""
