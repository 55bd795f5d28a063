"""The pictures in docs/: the real daemon and a real Prometheus under a fleet that might be one. `make screenshots`."""
