"""Every example in a docstring of the library runs, and gives what it shows."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for path in sorted((ROOT / "bayes_pfl").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


class Finder(doctest.DocTestFinder):
    """Finds examples of functions whose signatures are checked, too: a checker wraps them in functions of its own."""

    def _from_module(self, module: ModuleType | None, object: object) -> bool:
        return super()._from_module(module, inspect.unwrap(object) if callable(object) else object)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_run(path):
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for examples in Finder().find(module):
        runner.run(examples)
    assert runner.failures == 0
    assert runner.tries == path.read_text(encoding="utf-8").count(">>> ")
