"""The ground under all programs: Ray clusters, storage, settings, MLflow, HTML."""
