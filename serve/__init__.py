"""The scoring endpoint on Ray Serve: `bayes-pfl serve`, or `serve deploy configs/serve.yaml` on a cluster."""
