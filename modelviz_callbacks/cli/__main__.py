"""``python -m modelviz_callbacks.cli``: the same as ``modelviz``."""

from __future__ import annotations

import sys

from modelviz_callbacks.cli import main

if __name__ == "__main__":
    sys.exit(main())
