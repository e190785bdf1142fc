"""Seeds: one number from the user, unrelated numbers for everything that draws."""

from fastdqn.rng import derive

# Purposes that seeds are derived for; environment seeds of two purposes never meet.
TRAIN, EVAL, CONFIRM, FINAL, AUDIT, WEIGHTS, EXPLORE, SAMPLE, DRAWS, NOISE = range(10)


def env_seed(seed: int, purpose: int, count: int = 0) -> int:
    """A seed for lane 0 of one use of environments: lane i takes the seed i above.

    Each purpose has 2^28 numbers of its own, so a lane's seed is used for nothing else.
    """
    return (purpose << 28) + derive(seed, purpose, count) % ((1 << 28) - (1 << 24))
