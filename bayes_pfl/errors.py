"""Every error this project raises for people to read, each a sentence that says what to do.

BayesPFLError            anything the user can mend; programs print it and exit with 2
├── ConfigError          a configuration key or value is wrong
├── DataError            a dataset folder, list or shard is not what it should be
│   ├── DamagedError     a file that this project wrote is not whole
│   └── ImageError       one image or mask cannot be used; the others can
├── OutputError          a target cannot be written: no room, no right, in use, or taken
├── BackboneError        a CLIP model or its weights cannot be built as asked
│   └── ClassNameError   a class name is blank, or longer than the text encoder has room for
├── BundleError          a trained model's folder is missing, damaged or of another version
└── TrainingError        a run cannot go on: a loss that is not finite, too little hardware

Mistakes of our own stay plain exceptions (assert, TypeError) and keep their traceback.
"""


class BayesPFLError(Exception):
    """The root: a message for people, and the exit code of a program that ends with it."""

    exit_code = 2


class ConfigError(BayesPFLError):
    """A configuration key or value is wrong."""


class DataError(BayesPFLError):
    """A dataset folder, a list of images or a shard is not what it should be."""


class DamagedError(DataError):
    """A file that this project wrote is there, but not whole."""


class ImageError(DataError):
    """One image or mask cannot be used; its message is the reason alone, without the file's name."""


class OutputError(BayesPFLError):
    """A target cannot be written: no room, no right to write, in use, or holding something else."""


class BackboneError(BayesPFLError):
    """A CLIP model or its weights cannot be built as asked."""


class ClassNameError(BackboneError):
    """A class name is blank, or longer than the text encoder has room for."""


class BundleError(BayesPFLError):
    """A trained model's folder is missing, damaged or of another version."""


class TrainingError(BayesPFLError):
    """A training run cannot go on."""
