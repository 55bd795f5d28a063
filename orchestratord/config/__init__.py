"""Options to checked settings."""
