"""The HTTP server below the routes."""
