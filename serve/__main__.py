"""`python -m serve`: the same as `bayes-pfl serve`."""

import sys

from serve.main import main

if __name__ == "__main__":
    sys.exit(main())
