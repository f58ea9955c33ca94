"""For all tests: shapes and types in the library's signatures are executed, and `import painted` works from every folder."""

import sys
from pathlib import Path

import torch
from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parent))
install_import_hook("bayes_pfl", "typechecked.check")
torch.set_num_threads(1)  # as the programs' workers: other thread counts may add in another order
