"""What `bayes-pfl train` alone uses: worker loop, batches, validation, progress, provenance, report."""
