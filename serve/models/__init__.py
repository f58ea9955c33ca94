"""Model replicas and the way to them: batches, messages, reloading, drift."""
