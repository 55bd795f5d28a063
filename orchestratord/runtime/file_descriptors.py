"""The limit of open files and sockets, and how many connections fit into it."""

from __future__ import annotations

import resource

from twisted.logger import Logger

log = Logger()

#: Descriptors for the log, the listeners, the reactor, pipes of child processes, lookups of names, and files.
OTHERS = 128


def connections_that_fit(wanted: int, upstream: int) -> int:
    """Raise the soft limit of open files as far as needed and allowed, and return how many connections fit into it.

    `upstream` descriptors stay free for connections to Prometheus, and OTHERS for the rest, except that connections get
    at least half of the limit. If fewer than `wanted` fit, that is logged.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + upstream + OTHERS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fit = wanted if soft == resource.RLIM_INFINITY else min(wanted, max(soft - upstream - OTHERS, soft // 2))
    if fit < wanted:
        log.warn(
            "--max-connections: {wanted} is lowered to {fit}: the process may open {limit} files",
            wanted=wanted,
            fit=fit,
            limit=soft,
        )
    return fit
