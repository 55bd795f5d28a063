"""The query page at `/graph`, and the chart alone at `/graph.svg`."""
