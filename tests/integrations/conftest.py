from tests.trackers.conftest import empty_database, fluent, store

__all__ = ["empty_database", "fluent", "store"]
