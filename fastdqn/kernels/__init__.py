"""Building blocks of compiled kernels: the JIT decorator, matmul, vectors, random numbers."""
