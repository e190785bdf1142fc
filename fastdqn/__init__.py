"""fastdqn: vectorised, high-throughput training of DQN-family agents."""

__version__ = "0.1.0"
