"""Delivery of every report to a Prometheus-compatible store."""
