"""Scores of calibration images -> thresholds with stated error rates, p-values, verdicts and drift alarms."""
