"""What a user wants of decisions -> how many errors of which kind are allowed."""

from pydantic import Field, model_validator

from bayes_pfl.config import Settings


class Rule(Settings):
    """By what a threshold is chosen: a rate of false alarms, a wanted recall, both, or costs."""

    false_alarms: float | None = Field(
        None, gt=0, lt=1, description="share of good images that may be called defective, on average"
    )
    recall: float | None = Field(
        None, gt=0, lt=1, description="share of defective images that must not be called good, on average"
    )
    cost_miss: float | None = Field(None, gt=0, description="cost of a defective image that is called good")
    cost_false_alarm: float | None = Field(None, gt=0, description="cost of a good image that is called defective")
    defect_rate: float | None = Field(
        None, gt=0, lt=1, description="share of defective images in use, for costs; none: as in the images given"
    )
    confidence: float = Field(
        0.95,
        ge=0.5,
        lt=1,
        description="confidence of statements about this calibration, and of the band of unsure images",
    )

    @model_validator(mode="after")
    def _is_one_rule(self) -> "Rule":
        costs = self.cost_miss is not None, self.cost_false_alarm is not None
        rates = self.false_alarms is not None or self.recall is not None
        if costs[0] != costs[1]:
            raise ValueError("cost_miss and cost_false_alarm belong together: give both")
        if all(costs) == rates:
            raise ValueError("give false_alarms, recall or both, or cost_miss and cost_false_alarm")
        if self.defect_rate is not None and not all(costs):
            raise ValueError("defect_rate is of costs: give cost_miss and cost_false_alarm too")
        return self

    @property
    def by_cost(self) -> bool:
        """Whether costs decide."""
        return self.cost_miss is not None
