"""The orchestrator: the latest profile of every Kubernetes node, for Prometheus and for schedulers."""

__version__ = "0.1.0"
