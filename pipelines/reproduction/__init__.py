"""The paper's tables and figures, measured again: datasets -> models -> figures with verdicts."""
