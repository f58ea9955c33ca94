"""The options and settings of `bayes-pfl pretrain`."""

import argparse
import hashlib

from pydantic import Field

from bayes_pfl.config import Settings
from bayes_pfl.embedded_training.recipe import PretrainingConfig
from pipelines.options.config_files import add_settings
from pipelines.platform.settings import ClusterSettings, TrackingSettings


class PretrainSettings(Settings):
    """A pretraining run: the options, and where it happens."""

    pretraining: PretrainingConfig = PretrainingConfig()
    cluster: ClusterSettings = ClusterSettings(num_workers=1)
    tracking: TrackingSettings = TrackingSettings()
    output: str = Field("runs/embedded", description="folder of the resulting weights and their curve")

    def name(self) -> str:
        """Name of the run: a hash of everything that decides its result, so that the same run is found again.

        Returns:
            `pretrain-` and 12 hexadecimal digits.
        """
        decisive = self.model_copy(update={"tracking": TrackingSettings(), "output": ""})
        return f"pretrain-{hashlib.sha256(decisive.model_dump_json().encode()).hexdigest()[:12]}"


SETTINGS = PretrainSettings
"""What `--set` and `--settings` are about."""

EXAMPLES = """\
bayes-pfl pretrain --config pretrain_embedded
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl pretrain`.

    Args:
        parser: gets the options.
    """
    add_settings(parser, SETTINGS)
    parser.add_argument("--fresh", action="store_true", help="start over instead of going on with the same run")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of text")
