"""The pages about nodes: the list of all at `/fleet`, and the page of each at `/nodes/<id>`."""
