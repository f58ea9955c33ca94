"""Counts and durations -> Prometheus, through Ray's own metrics port; Ray adds the prefix `ray_`."""

from ray.util.metrics import Counter, Gauge, Histogram

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
GAPS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
SCORES = [step / 20 for step in range(1, 20)]


class Measures:
    """Counters and histograms of one ingress replica."""

    def __init__(self) -> None:
        self.requests = Counter("bayes_pfl_requests", "HTTP requests by route and status", ("route", "status"))
        self.latency = Histogram("bayes_pfl_request_seconds", "time from request to answer", SECONDS, ("route",))
        self.scores = Histogram("bayes_pfl_image_score", "image scores answered", SCORES, ("model", "version"))
        self.anomalies = Counter("bayes_pfl_anomalies", "images called defective", ("model", "version"))
        self.unsure = Counter("bayes_pfl_unsure", "images called neither good nor defective", ("model", "version"))
        self.evidence = Gauge("bayes_pfl_stream_evidence", "that images are unlike the calibration's", ("model",))
        self.alarm = Gauge("bayes_pfl_stream_alarm", "1 once the evidence has reached the alarm", ("model",))
        self.retries = Counter("bayes_pfl_retries", "calls sent again because a replica was lost", ("model",))
        self.queued = Gauge("bayes_pfl_queued", "images that wait for a replica", ("model",))
        self.tokens_refused = Counter("bayes_pfl_tokens_refused", "looks at a tokens file that could not be used")
        self.gaps = Histogram("bayes_pfl_shadow_gap", "|challenger's - champion's score|", GAPS, ("model",))

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request.

        Args:
            route: its path as the application declares it.
            status: of the answer.
            seconds: from request to answer.
        """
        self.requests.inc(tags={"route": route, "status": str(status)})
        self.latency.observe(seconds, tags={"route": route})

    def score(self, model: str, version: str, score: float, label: str | None) -> None:
        """Count an answered image.

        Args:
            model: its name.
            version: of the model.
            score: image score.
            label: what it is called, if anything.
        """
        tags = {"model": model, "version": version}
        self.scores.observe(score, tags=tags)
        if label == "defective":
            self.anomalies.inc(tags=tags)
        if label == "unsure":
            self.unsure.inc(tags=tags)

    def stream(self, model: str, evidence: float, is_alarm: bool) -> None:
        """Publish how far a model's images speak against its calibration.

        Args:
            model: its name.
            evidence: highest so far.
            is_alarm: whether it is enough for an alarm.
        """
        self.evidence.set(evidence, tags={"model": model})
        self.alarm.set(float(is_alarm), tags={"model": model})

    def token_refused(self) -> None:
        """Count a look at a tokens file that could not be used."""
        self.tokens_refused.inc()


class ReplicaMeasures:
    """Gauges and histograms of one model replica."""

    def __init__(self, model: str) -> None:
        self.tags = {"model": model}
        self.compute = Histogram("bayes_pfl_compute_seconds", "computation of one image", SECONDS, ("model",))
        self.batches = Histogram("bayes_pfl_batch_images", "images in a batch", [1, 2, 4, 8, 16, 32], ("model",))
        self.score_drift = Gauge("bayes_pfl_score_drift", "population stability index of recent scores", ("model",))
        self.embedding_drift = Gauge(
            "bayes_pfl_embedding_drift", "cosine distance of the recent mean embedding", ("model",)
        )
        self.failed = Counter("bayes_pfl_jobs_failed", "jobs that broke off in the replica", ("model",))
        self.loaded = Counter("bayes_pfl_models_loaded", "models put into service", ("model",))
        self.refused = Counter(
            "bayes_pfl_models_refused", "new models that could not be read or failed their self-test", ("model",)
        )

    def drift(self, drift: tuple[float, float] | None) -> None:
        """Publish how far recent images are from the reference.

        Args:
            drift: of scores and of embeddings; none while too few images have come.
        """
        if drift is not None:
            self.score_drift.set(drift[0], tags=self.tags)
            self.embedding_drift.set(drift[1], tags=self.tags)
