"""The reason of a failed exchange, for a log line or an answer: OpenSSL's and Twisted's errors as text."""

from __future__ import annotations

from OpenSSL import SSL


def readable(error: BaseException) -> str:
    """Return the text of an error; OpenSSL's errors hold lists of tuples instead of a text."""
    if isinstance(error, SSL.Error):
        queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
        reasons = [entry[-1] for entry in queue if entry[-1]]
        return "TLS: " + (", ".join(reasons) or "the connection broke off")
    return str(error) or type(error).__name__


def first_cause(error: BaseException) -> BaseException:
    """Return the first cause of an Agent's ResponseFailed, or of an error that lists causes like it; else the error."""
    causes = getattr(error, "reasons", None)
    cause: BaseException = causes[0].value if causes else error
    return cause


def reason_of(error: BaseException) -> str:
    """Return in a few printable ASCII words why a server could not be reached."""
    # The server may have chosen a part of the text. A line of the log must stay one line.
    return ascii(readable(first_cause(error)).rstrip(".")[:300])[1:-1]
