"""`python -m treadle`."""
from __future__ import annotations

import sys

from treadle.command import main

if __name__ == "__main__":
    sys.exit(main())
