"""The programs: each stage reads a folder and writes a folder, on Ray; `bayes-pfl` is their command line."""
