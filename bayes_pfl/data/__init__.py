"""Bytes on disk -> tensors: shards, files by URI, samples in the order of an epoch, decoding, augmentation."""
