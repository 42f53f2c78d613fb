"""Errors that app code meets or raises."""


class WorkerError(Exception):
    """Raise it for an intended failure: the caller sees the text, no traceback is logged."""


class HostError(Exception):
    """The host refused an operation; the text is the host's."""


class HostTimeout(HostError):
    """The host did not answer an operation in time."""


class CallOver(HostError):
    """A ``ctx`` was used after its handler had returned or its call had timed out."""


class ToolError(Exception):
    """A tool of an agent run failed; the text is the tool's."""
