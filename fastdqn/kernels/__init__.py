"""Building blocks of compiled kernels: the JIT decorator, matmul, atomics, random numbers."""
