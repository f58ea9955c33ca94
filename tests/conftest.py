"""For all tests: shapes and types in the library's signatures are executed, and `import painted` works from every folder."""

import sys
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parent))
install_import_hook("bayes_pfl", "typechecked.check")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `-n 2 --dist loadgroup`: the files that share the session's Ray stay in one process, every other file in one too."""
    sharing = {item.path for item in items if "ray_session" in getattr(item, "fixturenames", ())}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.path in sharing else str(item.path)))
