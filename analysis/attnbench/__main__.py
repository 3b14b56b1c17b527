# SPDX-License-Identifier: Apache-2.0
"""``python -m attnbench``: the command line."""

import sys

from attnbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
