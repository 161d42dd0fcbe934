"""`python -m jaxdet` is `jaxdet`."""

import sys

from jaxdet.cli import main

if __name__ == "__main__":
    sys.exit(main())
