"""Tabular Q-learning: discretization, the Q-table and its update."""
