"""A recording's artifacts made in the training process: what is quick at once, the rest later."""

from __future__ import annotations

from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.artifacts.table import MadeIn, early_rows, late_rows, rows
from modelviz_callbacks.jobs.upload_process import upload
from modelviz_callbacks.report import say
from modelviz_callbacks.tracing import Recording, TimedStep, pack, unpack
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
        self._products: Products | None = None

    def begin(self, recording: Recording) -> None:
        """Makes what is quick to make.

        Args:
            recording: What a capture gave.
        """
        maker, options = self._maker, self._maker.options
        # What goes to a worker holds no object and no tensor of the user's, and the weights of now.
        if options.trained_onnx:
            self._live = Products(recording, options.name, maker.refuse)
        try:
            recording = unpack(pack(recording, options.onnx_weights))
        except Exception as error:
            maker.add_remark(
                "The recording was kept as it is until the end, and with it what the first batch "
                f"was made of ({type(error).__name__}: {error})."
            )
        self._products = Products(recording, options.name, maker.refuse)
        maker.describe(self._products.early.graph)
        maker.make(early_rows(), self._products.early)

    def add_times(self, step: TimedStep) -> None:
        """Takes over a step that was timed, for the files that are made at the end.

        Args:
            step: The step.
        """
        if self._products is not None:
            self._products.add_times(step)

    def poll(self) -> bool:
        """Nothing is made meanwhile.

        Returns:
            Whether nothing more is to be expected.
        """
        return True

    def finish(self, is_patient: bool) -> None:
        """Makes the rest, with the weights of now at hand.

        Args:
            is_patient: Whether there is time to wait for a server.
        """
        maker, products = self._maker, self._products
        assert products is not None
        maker.describe(products.graph)
        maker.describe_times(products)
        maker.make(late_rows(), products)
        if self._live is not None:
            maker.make(rows(MadeIn.TRAINING), self._live)
        self._live = self._products = None
        maker.write_report()
        if self._target is not None and products.analysis is not None and is_patient:
            say(f"modelviz: sending the files to MLflow (at most {MLFLOW_LIMIT_S:.0f} s)")
            names = list(maker.report.files)
            with maker.guarded("the MLflow run"):
                upload(self._target, maker.report, names, MLFLOW_LIMIT_S)
            maker.write_report()
