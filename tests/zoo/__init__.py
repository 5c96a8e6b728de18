"""The model zoo: everything the tracing core must record exactly and leave undisturbed."""
