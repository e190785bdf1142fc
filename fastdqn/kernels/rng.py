"""Random numbers for kernels: xoshiro256++ on a small integer state that a caller owns and saves.

A NumPy Generator cannot be drawn from inside a compiled kernel without boxing, and its state is
an object; four uint64 are plain data. Blackman and Vigna, "Scrambled linear pseudorandom number
generators" (2021); the seeding is Steele's splitmix64, as its authors recommend.
"""

import numpy as np

from fastdqn.kernels.jit import kernel

_MASK = (1 << 64) - 1


def seed_state(seed: int, stream: int = 0) -> np.ndarray:
    """Make a generator state from a seed and the number of an independent stream.

    returns  [4] uint64, to be passed to the kernels below, which advance it in place
    """
    state = np.empty(4, np.uint64)
    # Not splitmix's own increment: neighbouring seeds would share all words but one.
    x = (seed * 0xA0761D6478BD642F + stream * 0xD1B54A32D192ED03) & _MASK
    for i in range(4):
        x = (x + 0x9E3779B97F4A7C15) & _MASK
        z = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        state[i] = z ^ (z >> 31)
    return state


def derive(seed: int, *purpose: int) -> int:
    """A 63-bit seed for one purpose: different purposes give unrelated numbers."""
    for number in purpose:
        seed = int(seed_state(seed, number + 1)[0]) >> 1
    return seed


@kernel
def uniform(state):
    """Draw one float64 in [0, 1). state [4] uint64, advanced in place."""
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    total = s0 + s3
    result = ((total << np.uint64(23)) | (total >> np.uint64(41))) + s0
    t = s1 << np.uint64(17)
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= t
    state[0], state[1], state[2] = s0, s1, s2
    state[3] = (s3 << np.uint64(45)) | (s3 >> np.uint64(19))
    return (result >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@kernel
def below(state, bound):
    """Draw one int64 in [0, bound), bound < 2^53: the bias is under bound / 2^53."""
    return np.int64(uniform(state) * bound)
