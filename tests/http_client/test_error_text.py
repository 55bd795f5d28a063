"""Errors as text."""

from __future__ import annotations

from OpenSSL import SSL

from orchestratord.http_client.error_text import readable


def test_errors_are_readable() -> None:
    """OpenSSL's lists of tuples are put into words, others are their own text."""
    assert readable(SSL.Error([("SSL routines", "", "wrong version number")])) == "TLS: wrong version number"
    assert readable(SSL.Error()) == "TLS: the connection broke off"
    assert readable(ValueError("x")) == "x"
    assert readable(ValueError()) == "ValueError"
