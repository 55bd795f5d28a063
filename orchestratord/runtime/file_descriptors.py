"""How many files and sockets the process may have open, and how many connections fit into that."""

from __future__ import annotations

import resource

from twisted.logger import Logger

log = Logger()

#: Descriptors for the log, the listeners, the reactor, children's pipes, lookups of names, files that are replaced.
OTHERS = 128


def connections_that_fit(wanted: int, upstream: int) -> int:
    """Raise the soft limit of open files as far as needed and allowed, and return how many connections fit into it.

    `upstream` connections to Prometheus and OTHERS stay free. Fewer than wanted are said in a line of the log; where
    the limit is very low, half of it is for connections.
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
