"""Scrapes every so often, as Prometheus does, until it is ended; prints the milliseconds of each scrape.

Started as `scraper.py PORT SECONDS`. A process of its own, so that it takes nothing from the client that measures.
"""

from __future__ import annotations

import sys
import time

from tests.benchmarks.http11 import scrape


def main() -> None:
    """Scrape."""
    port, every = int(sys.argv[1]), float(sys.argv[2])
    due = time.monotonic()
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        print(scrape(port) * 1000, flush=True)  # noqa: T201 - a program's output
        due += every


if __name__ == "__main__":
    main()
