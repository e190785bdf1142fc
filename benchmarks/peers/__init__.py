"""Trainers that bench_peers.py compares, one file each; catalogue.py names them."""
