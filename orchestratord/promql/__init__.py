"""Queries: checked, answered from memory, or passed on to Prometheus."""
