"""Errors that app code meets or raises."""


class WorkerError(Exception):
    """Raise it for an intended failure: the caller sees the text, no traceback is logged."""


class Retry(Exception):
    """Raise it in ``on_job`` to have the job delivered again, however often that was asked for."""

    def __init__(self, delay: float = 0) -> None:
        """Take the seconds until then, 0-86400."""
        super().__init__(f"retry in {delay:g} s")
        self.order = {"retry": delay}


class Reject(Exception):
    """Raise it in ``on_job`` to give the job up at once, whatever attempts are left."""

    def __init__(self, reason: str) -> None:
        """Take the reason that the dead letter shows."""
        super().__init__(reason)
        self.order = {"reject": reason}


class HostError(Exception):
    """The host refused an operation; the text is the host's."""


class HostTimeout(HostError):
    """The host did not answer an operation in time."""


class CallOver(HostError):
    """A ``ctx`` was used after its handler had returned or its call had timed out."""


class ToolError(Exception):
    """A tool of an agent run failed; the text is the tool's."""
