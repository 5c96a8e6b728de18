"""A recording's artifacts made in the training process: what is quick at once, the rest later."""

from __future__ import annotations

from collections.abc import Sequence

from modelviz_callbacks.artifacts.changes import compare_step
from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.artifacts.table import MadeIn, early_rows, late_rows, rows
from modelviz_callbacks.jobs.upload_process import upload
from modelviz_callbacks.report import say
from modelviz_callbacks.tracing import Measured, Recording, pack, pack_comparable, unpack
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget

# How long the end of training may wait for an MLflow server, in seconds.
MLFLOW_LIMIT_S = 30.0


class InPlace:
    """One recording with ``background=False``, or where no worker can be had."""

    def __init__(self, maker: Maker, target: MlflowTarget | None) -> None:
        """Nothing is made yet.

        Args:
            maker: Where everything goes.
            target: The MLflow run, if there is one.
        """
        self._maker = maker
        self._target = target
        self._live: Products | None = None
        self._early: Products | None = None
        self._recording: bytes | Recording = b""
        self._measured = Measured()
        self._last_step = b""

    def begin(self, recording: Recording) -> None:
        """Makes what is quick to make.

        Args:
            recording: What a capture gave.
        """
        maker, options = self._maker, self._maker.options
        products = Products(recording, options.name, maker.refuse)
        if options.trained_onnx:
            self._live = products
        # What is packed holds no object and no tensor of the user's, and the weights of now. It is
        # read again at the end: to make tensors here would be seen by whoever records this step.
        self._recording = recording
        try:
            self._recording = pack(recording, options.onnx_weights)
        except Exception as error:
            maker.add_remark(
                "The recording was kept as it is until the end, and with it what the first batch "
                f"was made of ({type(error).__name__}: {error})."
            )
        self._early = products.early
        maker.describe(self._early.graph)
        maker.make(early_rows(), self._early)

    def add_measured(self, measured: Measured) -> None:
        """Takes over what was measured in later steps, for the files that are made at the end.

        Args:
            measured: All of it.
        """
        self._measured = measured

    def know(self, measured: Measured) -> bool:
        """Takes over what is known right after the recorded step.

        Args:
            measured: All of it.

        Returns:
            Whether it will be shown; else it is to be added when all is known.
        """
        self._measured = measured
        return True

    def add_step(self, recording: Recording, step: int) -> None:
        """Compares a later step that was recorded with the graph before, and tells a change.

        Args:
            recording: Of the step.
            step: Its number.
        """
        maker, before = self._maker, len(self._maker.report.remarks)
        with maker.guarded("the comparison with the steps before"):
            packed = pack_comparable(recording)
            if packed != self._last_step:
                self._last_step = packed
                compare_step(maker, Products(recording, maker.options.name, maker.refuse), step)
        for remark in maker.report.remarks[before:]:
            say(f"modelviz: {remark}")

    def poll(self) -> bool:
        """Nothing is made meanwhile.

        Returns:
            Whether nothing more is to be expected.
        """
        return True

    def _all(self) -> Products:
        """What can be made of the recording, begun with what was made early."""
        recording, self._recording = self._recording, b""
        early, self._early = self._early, None
        assert early is not None
        if isinstance(recording, bytes):
            recording = unpack(recording)
        options, measured = self._maker.options, self._measured
        return Products(recording, options.name, self._maker.refuse, measured, early)

    def finish(self, is_patient: bool, more: Sequence[MlflowTarget] = ()) -> None:
        """Makes the rest, with the weights of now at hand.

        Args:
            is_patient: Whether there is time to wait for a server.
            more: MLflow runs that get the files besides the first, or were found late.
        """
        maker, products = self._maker, self._all()
        maker.describe(products.graph)
        maker.describe_measured(products)
        maker.make(late_rows(), products)
        if self._live is not None:
            maker.make(rows(MadeIn.TRAINING), self._live)
        self._live = None
        maker.write_report()
        targets = ([] if self._target is None else [self._target]) + list(more)
        for target in targets if products.analysis is not None and is_patient else ():
            say(f"modelviz: sending the files to MLflow (at most {MLFLOW_LIMIT_S:.0f} s)")
            names = list(maker.report.files)
            with maker.guarded("the MLflow run"):
                upload(target, maker.report, names, MLFLOW_LIMIT_S)
            maker.write_report()
