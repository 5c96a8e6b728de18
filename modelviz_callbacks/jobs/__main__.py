"""``python -m modelviz_callbacks.jobs JOB`` does a job that was left undone."""

from __future__ import annotations

import sys

from modelviz_callbacks.jobs.worker_program import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
