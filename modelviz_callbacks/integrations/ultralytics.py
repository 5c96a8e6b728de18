"""``model.add_callback("on_train_start", GraphCallback())`` of Ultralytics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from modelviz_callbacks.hook import GraphHook
from modelviz_callbacks.options import OptionFields, make_options
from modelviz_callbacks.report import Report


class GraphCallback:
    """Records the first training batch of a detector, segmenter or classifier, with its loss.

    Ultralytics trains a model that its trainer builds, and not the one that ``YOLO`` holds: this
    asks the trainer. The files go to ``model_graph`` in the run's folder (``runs/detect/train``);
    its TensorBoard and MLflow runs are found where its settings switch them on. On several GPUs
    Ultralytics starts processes of its own, which know no callback of the script.

    Example:
        >>> model = YOLO("yolov8n.yaml")
        >>> model.add_callback("on_train_start", GraphCallback())
        >>> model.train(data="coco8.yaml", epochs=1)
        modelviz: ...
    """

    def __init__(self, **options: Unpack[OptionFields]) -> None:
        """Nothing happens before training begins.

        Args:
            **options: See ``modelviz_callbacks.options.Options``.

        Raises:
            OptionError: An option is unknown or has an impossible value.
        """
        make_options(**options)
        self._options = options
        self._hook: GraphHook | None = None

    @property
    def report(self) -> Report | None:
        """What was written where; ``None`` before training."""
        return self._hook.report if self._hook is not None else None

    def __call__(self, trainer: Any) -> None:
        """Arms the recording; called by Ultralytics when training starts.

        Args:
            trainer: Its trainer.
        """
        options: dict[str, Any] = {"dirpath": Path(trainer.save_dir) / "model_graph"}
        options |= self._options
        self._hook = GraphHook(trainer.model, loggers=_writers(), loss=True, **options)
        trainer.add_callback("on_train_end", self._end)

    def _end(self, trainer: Any) -> None:
        if self._hook is not None:
            self._hook.close()


def _writers() -> list[Any]:
    """The writer of the run, if there is one: Ultralytics keeps it in a module."""
    try:
        from ultralytics.utils.callbacks import tensorboard
    except ImportError:
        return []
    writer = getattr(tensorboard, "WRITER", None)
    return [] if writer is None else [writer]
