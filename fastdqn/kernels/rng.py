"""Random numbers in kernels: xoshiro256++ on a small integer state that the caller owns.

A NumPy Generator cannot be used inside a compiled kernel without boxing, and its state is an
object. Four uint64 are plain data. Source: Blackman and Vigna, "Scrambled linear pseudorandom
number generators" (2021). Seeding uses Steele's splitmix64, as its authors recommend.
"""

import numpy as np

from fastdqn.kernels.jit import kernel

_MASK = (1 << 64) - 1


def seed_state(seed: int, stream: int = 0) -> np.ndarray:
    """Returns a generator state, uint64[4], from a seed and the number of an independent stream.

    The kernels below advance the state in place.
    """
    state = np.empty(4, np.uint64)
    # Not splitmix's own increment, since nearby seeds would share all words but one.
    x = (seed * 0xA0761D6478BD642F + stream * 0xD1B54A32D192ED03) & _MASK
    for i in range(4):
        x = (x + 0x9E3779B97F4A7C15) & _MASK
        z = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        state[i] = z ^ (z >> 31)
    return state


def derive(seed: int, *purpose: int) -> int:
    """Returns a 63-bit seed for one purpose; different purposes have independent seeds."""
    for number in purpose:
        seed = int(seed_state(seed, number + 1)[0]) >> 1
    return seed


@kernel
def uniform(state):
    """Returns one float64 in [0, 1) and advances state, uint64[4]."""
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
    """Returns one int64 in [0, bound), for bound < 2^53; the bias is below bound / 2^53."""
    return np.int64(uniform(state) * bound)
