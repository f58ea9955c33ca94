"""The options of `bayes-pfl generate`."""

import argparse

from bayes_pfl.synthetic.splits import SPLITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bayes-pfl generate`.

    Args:
        parser: to add them to.
    """
    parser.add_argument("--output", help="folder to create")
    parser.add_argument(
        "--categories",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help=f"category names, or sets of them: all, {', '.join(SPLITS)} (default: all)",
    )
    parser.add_argument(
        "--defects", nargs="+", metavar="KIND", help="only these kinds (default: all that the split allows)"
    )
    parser.add_argument("--seed", type=int, default=7, help="same seed, same images (default: 7)")
    parser.add_argument("--size", type=int, default=128, help="side of the images, pixels (default: 128)")
    parser.add_argument(
        "--normal", type=int, default=20, help="flawless images per category, for train/ and for test/ (default: 20)"
    )
    parser.add_argument("--defective", type=int, default=20, help="defective images per category (default: 20)")
    parser.add_argument("--list", action="store_true", help="list categories and their kinds of defects, then stop")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
