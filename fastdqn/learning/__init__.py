"""Networks, what their outputs mean, losses, the update; the crossing between NumPy and torch."""
