"""Checks the URLs of outbound requests: one that can never work is refused before anything is sent. Pure."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

#: Characters of a host name, and of each label in it: the limits of DNS.
MAX_HOST, MAX_LABEL = 253, 63

_LABEL = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER = re.compile(r"\d+|0[xX][0-9a-fA-F]*")


class WrongUrl(ValueError):
    """The URL can never work. The text says why; it is the predicate of a sentence whose subject is the URL."""


def http_url(text: str) -> SplitResult:
    """Return the parts of an absolute http or https URL without credentials and fragment. Raises WrongUrl.

    The host is an IPv4 address, an IPv6 address in brackets, or a name. A name may have underscores, as the names of
    docker-compose do.
    """
    if re.search(r"[\x00-\x20\x7f-\U0010ffff]", text):
        raise WrongUrl("must not hold blanks or characters that are not ASCII")
    try:
        url = urlsplit(text)
    except ValueError:
        raise WrongUrl("must have an IPv6 address, and nothing else, between its brackets") from None
    if url.scheme not in {"http", "https"} or "//" not in text:
        raise WrongUrl("must begin with http:// or https://")
    if url.username is not None:
        raise WrongUrl("must not hold credentials: there are options for them")
    if "#" in text:
        raise WrongUrl("must not have a fragment")
    host, port = _host_and_port(url.netloc)
    _check_port(port)
    _check_host(host)
    return url


def _host_and_port(netloc: str) -> tuple[str, str | None]:
    """Return the host and the port as they are written; the port is None if there is no colon."""
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([^:]*))?", netloc)
    if match is None:
        raise WrongUrl("must have an IPv6 address in brackets, as in http://[::1]:9090")
    return match[1], match[2]


def _check_port(port: str | None) -> None:
    if port is not None and not (re.fullmatch(r"\d{1,5}", port) and 1 <= int(port) <= 65535):
        raise WrongUrl(f"must have a port from 1 to 65535, not {port[:20]!r}")


def _check_host(host: str) -> None:
    if not host:
        raise WrongUrl("must have a host")
    if host.startswith("["):
        _check_ipv6(host[1:-1])
        return
    if len(host) > MAX_HOST:
        raise WrongUrl(f"must have a host of at most {MAX_HOST} characters; this one has {len(host)}")
    labels = host.removesuffix(".").split(".")
    for label in labels:
        _check_label(label, host)
    # No top-level domain is a number, so that a host that ends with a number must be an address.
    if _NUMBER.fullmatch(labels[-1]):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise WrongUrl(f"must have a host that is a name or an address, not {host!r}") from None


def _check_ipv6(address: str) -> None:
    if "%" in address:
        raise WrongUrl("must not have a zone (%) in its address: use an address that is valid on every link")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        raise WrongUrl("must have an IPv6 address, and nothing else, between its brackets") from None


def _check_label(label: str, host: str) -> None:
    if not label:
        raise WrongUrl(f"must have a host without empty parts between its dots, not {host!r}")
    if len(label) > MAX_LABEL:
        raise WrongUrl(f"must have a host whose parts have at most {MAX_LABEL} characters, not {label!r}")
    if not _LABEL.fullmatch(label):
        raise WrongUrl(f"must have a host of letters, digits, '-', '_' and '.', not {host!r}")
