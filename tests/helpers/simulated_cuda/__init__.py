"""A simulated CUDA device: real CPU memory with the rules of devices, streams and graphs.

It runs the whole GPU path of the package without a GPU. Tensors report another device, and
operators on tensors of two devices fail. Vector clocks of the host and of each stream find accesses
that are not ordered. A captured graph executes nothing, and its replay uses memory that may have
been freed or overwritten since. It does not show cuDNN, compiled kernels, rounding or real time.
"""

from helpers.simulated_cuda.patches import simulated_cuda as simulated_cuda
