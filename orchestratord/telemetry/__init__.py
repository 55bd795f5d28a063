"""The orchestrator's own metrics."""
