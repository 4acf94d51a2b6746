"""The command line as ``python -m wgflow``."""

import sys

from wgflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
