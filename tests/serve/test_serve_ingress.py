"""The ingress stays small: it decodes and waits, and needs no torch for that."""

import subprocess
import sys


def test_the_ingress_brings_no_torch() -> None:
    code = (
        "import serve.ingress, sys; print(*[name for name in ('torch', 'open_clip', 'mlflow') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
