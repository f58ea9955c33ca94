"""How the code reads, held: docstrings with Args and Returns, nouns as names, functions that fit a screen, one line width."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = [path for folder in ("bayes_pfl", "pipelines", "serve") for path in sorted((ROOT / folder).rglob("*.py"))]
SCREEN = 50
"""Lines of a function without its docstring."""
WIDTH = 120
PRONOUNS = {"of", "one", "some", "said", "asked", "known", "kept", "found", "there", "about", "place", "met"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(body: list[ast.stmt], public: bool = True) -> Iterator[tuple[Function, bool]]:
    """Functions and methods of a module's body, and whether they are public; functions inside functions are left out."""
    for node in body:
        if isinstance(node, Function):
            yield node, public and not node.name.startswith("_")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node.body, public and not node.name.startswith("_"))


def undocumented(function: Function) -> list[str]:
    """Sections that the docstring of a public function lacks."""
    text = ast.get_docstring(function) or ""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    named = [argument for argument in arguments if argument.arg not in ("self", "cls")]
    is_property = any(getattr(node, "id", "") in ("property", "cached_property") for node in function.decorator_list)
    returns = function.returns is not None and ast.unparse(function.returns) not in ("None", "NoReturn")
    returns = returns and not is_property
    lacking = ["Args:"] if named and "Args:" not in text else []
    return lacking + (["Returns:"] if returns and "Returns:" not in text and "Yields:" not in text else [])


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_file_reads_as_the_house_does(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    for function, public in functions(tree.body):
        where = f"{function.name} (line {function.lineno})"
        docstring = ast.get_docstring(function) or ""
        lines = function.end_lineno - function.lineno + 1 - (len(docstring.splitlines()) + 1 if docstring else 0)
        assert lines <= SCREEN, f"{where} is longer than a screen"
        assert not public or not undocumented(function), f"{where} lacks {undocumented(function)}"
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    named = stored | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    assert not named & PRONOUNS
    assert [number for number, line in enumerate(text.splitlines(), 1) if len(line) > WIDTH] == []


def test_no_two_public_classes_share_a_name():
    classes = defaultdict(list)
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in classes.items() if len(paths) > 1} == {}


def test_files_are_of_a_size_to_read():
    sizes = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in CODE if path.name != "__init__.py")
    assert sizes[-1] <= 400
    assert 80 <= sizes[len(sizes) // 2] <= 200
