"""A bank's loan applications as an event store: run it with `python -m demo`."""
