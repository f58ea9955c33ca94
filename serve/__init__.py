"""The scoring endpoint on Ray Serve: `python -m serve`, or `serve deploy configs/serve.yaml` on a cluster."""
