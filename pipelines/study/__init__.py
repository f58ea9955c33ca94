"""What `bayes-pfl evaluate --embedded` alone uses: the plan of a study, its jobs, its report."""
