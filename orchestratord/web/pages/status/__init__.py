"""The status page at `/`: the state of the daemon and of the nodes, a heat map, and what is wrong."""
