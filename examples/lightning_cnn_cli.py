"""The digits classifier driven by LightningCLI, with `GraphLogger` configured in YAML.

Run it with ``python examples/lightning_cnn_cli.py fit --config configs/lightning_cnn.yaml``.
"""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.cli import LightningCLI
from lightning_cnn import DigitClassifier, Digits


def main(args: list[str] | None = None) -> None:
    Path("demo").mkdir(exist_ok=True)  # where the configuration's stores are
    LightningCLI(DigitClassifier, Digits, args=args, save_config_callback=None)


if __name__ == "__main__":
    main()
