"""`python -m serve`: start the endpoint on this machine."""

import sys

from serve.main import main

if __name__ == "__main__":
    sys.exit(main())
