"""`python -m server`, for when the console command is not on the PATH."""

import sys

from server.cli import main

if __name__ == "__main__":
    sys.exit(main())
