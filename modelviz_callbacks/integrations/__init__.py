"""One file a trainer: each maps the trainer's events and loggers to a run of ours.

Importing this package imports none of the trainers: name the file,
``from modelviz_callbacks.integrations.transformers import GraphCallback``.
"""
