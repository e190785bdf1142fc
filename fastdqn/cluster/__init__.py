"""Cluster: runs and environments on the machines of a Ray cluster."""
