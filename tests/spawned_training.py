"""A fit whose processes Lightning starts itself; run by a test.

Usage: python spawned_training.py FOLDER STRATEGY

Prints the callback's report as this process has it after the fit, as JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

from modelviz_callbacks import GraphLogger
from tests.lightning_modules import QUICK, Classifier, data, trainer_for


def main(folder: Path, strategy: str) -> None:
    callback = GraphLogger(**QUICK)
    trainer = trainer_for(folder, callback, strategy=strategy, devices=2, max_steps=2)
    trainer.fit(Classifier(), data())
    assert callback.report is not None, "the report did not come back"
    print("REPORT " + callback.report.to_json().replace("\n", " "), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
