"""Takes the screenshots in docs/pictures, of a real daemon and Prometheus with simulated nodes: `make screenshots`."""
