"""What `bayes-pfl ingest` is made of: options, workers, progress, summary."""
