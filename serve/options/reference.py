"""The options of `bayes-pfl reference`."""

import argparse
from pathlib import Path

from bayes_pfl.command_line import model_source
from bayes_pfl.errors import BundleError, ConfigError, DataError
from serve.options.checks import check_weights
from serve.options.values import num_samples

EXAMPLES = """\
bayes-pfl reference photos/good --model runs/model --class-name "metal plate"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl reference`.

    Args:
        parser: gets the options.
    """
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGES",
        help="image files, or folders of them: 50 or more, such as the endpoint usually sees",
    )
    add(
        "--model",
        required=True,
        type=lambda text: Path(model_source(text)),
        metavar="DIR",
        help="folder of the model, which gets the window",
    )
    add("--weights", metavar="FILE", help="CLIP's weights, where the file has moved since the model was made")
    add(
        "--class-name",
        default="object",
        metavar="NAME",
        help='what the images show, e.g. "metal plate"; default: object',
    )
    add(
        "--num-samples",
        type=num_samples,
        default=10,
        metavar="R",
        help="Monte Carlo samples, as the endpoint's clients use them; default: 10",
    )


def check(args: argparse.Namespace) -> None:
    """Refuse what is wrong with the options and can be seen without torch.

    Args:
        args: parsed options.

    Raises:
        BundleError: the folder holds no model.
        ConfigError: the class name is blank, or there is no such file of weights.
        DataError: a path of images is not there.
    """
    if not args.class_name.strip():
        raise ConfigError('--class-name is blank; say what the images show, such as "metal plate".')
    check_weights(args.weights)
    for path in args.images:
        if not path.exists():
            raise DataError(f"There is no {path}; give image files or folders of them.")
    if not (args.model / "bundle.json").is_file():
        raise BundleError(
            f"The folder {args.model} holds no model; give the folder that training wrote, or that of a method without "
            "training: `bayes-pfl methods NAME --output FOLDER` writes it."
        )
