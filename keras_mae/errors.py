"""What ends a run, beside bad values: each says in one line what happened and how to go on."""


class RunError(RuntimeError):
    """Base of errors that a command tells in one line."""


class NonFiniteLossError(RunError):
    """Training gave a NaN or infinite loss."""


class CheckpointError(RunError):
    """A checkpoint could not be written, or does not fit the model."""


class WorkerLostError(RunError):
    """Another worker has ended, and this one cannot go on without it."""


class OutOfMemoryError(RunError):
    """A step needs more memory than the device has."""


class Interrupted(RuntimeError):
    """A signal ended the run after a step; its checkpoint is on disk."""
