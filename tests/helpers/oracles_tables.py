"""Slow references of the Q-table's kernels, in plain Python."""

import math


def state_of(row: list[float], digits: list[tuple[int, int, int, float, float]]) -> int:
    """Returns the state number of a flat observation. digits: (column, width, bins, low, high)."""
    number = 0
    for column, width, bins, low, high in digits:
        if width > 1:
            digit = row[column : column + width].index(1)
        else:
            digit = math.floor((float(row[column]) - low) * (bins / (high - low)))
            digit = min(max(digit, 0), bins - 1)
        number = number * bins + digit
    return number


def q_learning(
    table: dict[tuple[int, int], float], transitions, num_actions: int, gamma: float, rate: float
) -> None:
    """Applies (state, action, reward, terminated, next_state, allowed actions) in order."""
    for state, action, reward, terminated, next_state, allowed in transitions:
        best = 0.0
        if not terminated and allowed:
            best = max(table.get((next_state, a), 0.0) for a in range(num_actions) if a in allowed)
        value = table.get((state, action), 0.0)
        table[state, action] = value + rate * (reward + gamma * best - value)
