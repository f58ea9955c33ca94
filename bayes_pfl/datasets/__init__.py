"""Benchmark data sets and one's own images: folders as they come -> `Record`s -> Arrow shards."""
