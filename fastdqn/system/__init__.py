"""The process and the machine: signals, threads, standard streams, memory and CPU limits."""
