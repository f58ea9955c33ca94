"""Benchmark datasets, and one's own images, from the folders they come in to `Record`s."""
