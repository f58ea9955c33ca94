"""What `bayes-pfl tune` alone uses: search, trials, results."""
