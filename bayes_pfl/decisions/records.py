"""What a calibration keeps of its images, and of how they were scored."""

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from bayes_pfl.config import Precision, Settings
from bayes_pfl.decisions.conformal import RankedScores, tie_break

Score = Annotated[float, Field(ge=0, le=1e6)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class HowScored(Settings):
    """All that scores must have in common to be compared with a calibration's."""

    model_version: str = Field(description="first 12 hexadecimal digits of the SHA-256 of the head")
    settings_sha256: Sha256 = Field(description="of the model's settings, its threshold left out")
    looked_at: str = Field(description="way of looking at images, in words, as of `View.name`")
    num_samples: int = Field(ge=1, description="R")
    precision: Precision = Field("float32", description="of CLIP's matrix products")
    seed: int = Field(0, ge=0, description="of the samples")
    bits: int | None = Field(None, description="of gray images with more than 8; none: as each file says")

    def differences(self, other: "HowScored") -> str:
        """In what other scores differ.

        Args:
            other: how they were made.

        Returns:
            Words, such as "num_samples 10, not 5"; empty where they can be compared.
        """
        different = [
            (name.replace("settings_sha256", "settings"), str(mine)[:40], str(getattr(other, name))[:40])
            for name, mine in self
            if mine != getattr(other, name)
        ]
        return ", ".join(f"{name} {mine}, not {others}" for name, mine, others in different)


class ScoredImages(Settings):
    """Scores of calibration images, in any order; of the images nothing but their hashes."""

    sha256: tuple[Sha256, ...] = Field(min_length=1, description="of the files, hexadecimal")
    scores: tuple[Score, ...] = Field(description="image scores")
    map_maxima: tuple[Score, ...] = Field(description="largest value of each anomaly map as it is returned")
    uncertainties: tuple[Score, ...] | None = Field(
        None, description="standard deviations of the scores over the prompts; none: the method has no distribution"
    )

    @model_validator(mode="after")
    def _is_a_table(self) -> "ScoredImages":
        columns = [self.scores, self.map_maxima, *([] if self.uncertainties is None else [self.uncertainties])]
        if any(len(column) != len(self.sha256) for column in columns):
            raise ValueError("scores, map_maxima and uncertainties must be as many as the hashes")
        if len(set(self.sha256)) < len(self.sha256):
            raise ValueError("an image is in it twice")
        return self

    def __len__(self) -> int:
        return len(self.sha256)

    def tie_breaks(self, seed: int) -> list[float]:
        """What decides between equal scores.

        Args:
            seed: of the calibration.

        Returns:
            A number an image.
        """
        return [tie_break(seed, digest) for digest in self.sha256]

    def ranked(self, values: tuple[float, ...], seed: int) -> RankedScores:
        """Values of the images in order.

        Args:
            values: one an image.
            seed: of the tie-breaks.

        Returns:
            The values, ranked.
        """
        return RankedScores(values, self.tie_breaks(seed))

    def __add__(self, other: "ScoredImages") -> "ScoredImages":
        """Both together; uncertainties only where both have them, an image that both hold only once."""
        before = set(self.sha256)
        fresh = [at for at, digest in enumerate(other.sha256) if digest not in before]
        spread = None
        if self.uncertainties is not None and other.uncertainties is not None:
            spread = (*self.uncertainties, *(other.uncertainties[at] for at in fresh))
        return ScoredImages(
            sha256=(*self.sha256, *(other.sha256[at] for at in fresh)),
            scores=(*self.scores, *(other.scores[at] for at in fresh)),
            map_maxima=(*self.map_maxima, *(other.map_maxima[at] for at in fresh)),
            uncertainties=spread,
        )
