"""What studies alone use: jobs and report of `bayes-pfl evaluate --embedded`, studies of `bayes-pfl reproduce`."""
