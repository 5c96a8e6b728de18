"""MLflow: an upload to a run, with bounds on the time that a bad server takes."""
