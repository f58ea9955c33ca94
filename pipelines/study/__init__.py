"""What `bayes-pfl evaluate --embedded` alone uses: its jobs and its report."""
