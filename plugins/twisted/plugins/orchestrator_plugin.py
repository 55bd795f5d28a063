"""Makes `twistd orchestrator` and `twistd profiler` known; must import nothing that imports a reactor."""

from twisted.application.service import ServiceMaker

orchestrator = ServiceMaker(
    "orchestrator",
    "orchestratord.tap",
    "Keep the latest profile of every node, for Prometheus to scrape and schedulers to ask.",
    "orchestrator",
)
profiler = ServiceMaker(
    "profiler",
    "orchestratord.profiler.tap",
    "Measure this node and report it to an orchestrator every 10 seconds.",
    "profiler",
)
