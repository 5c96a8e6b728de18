"""The steps of a training as they come: which are recorded, timed, looked into, or searched.

What `GraphHook`, `GraphLogger` and the other integrations have in common. Each of them knows by
itself when a step begins and ends, and tells; the result goes to the `Run`.
"""
