"""The old place of `modelviz_callbacks.trackers.mlflow.target`."""

from modelviz_callbacks.trackers.mlflow.target import MlflowTarget, find_target

__all__ = ["MlflowTarget", "find_target"]
