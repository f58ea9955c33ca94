"""The HTTP layer: from a request's bytes to a checked question, from a score to the answer. It needs no torch."""
