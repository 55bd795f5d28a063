"""From settings to the concrete objects of the daemon."""
