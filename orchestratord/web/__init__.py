"""The HTTP edge: bounds, routes and answers."""
