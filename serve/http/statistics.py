"""Answered and failed images of one model in this ingress replica, as Triton's clients ask for them."""

import time


class Statistics:
    """Counts and durations since the start."""

    def __init__(self) -> None:
        self.images = 0
        self.images_ns = 0
        self.compute_ns = 0
        self.failures = 0
        self.failures_ns = 0
        self.last_ms = 0

    def answered(self, total_ns: int, compute_ns: int) -> None:
        """Count an answered image.

        Args:
            total_ns: from the bytes to the answer, nanoseconds.
            compute_ns: of it, computation in the replica, nanoseconds.
        """
        self.images += 1
        self.images_ns += total_ns
        self.compute_ns += compute_ns
        self.last_ms = time.time_ns() // 10**6

    def failed(self, total_ns: int) -> None:
        """Count an image without an answer.

        Args:
            total_ns: from the bytes to the refusal, nanoseconds.
        """
        self.failures += 1
        self.failures_ns += total_ns
