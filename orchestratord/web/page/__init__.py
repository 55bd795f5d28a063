"""The pages for people: the fleet, a node, a query. Everything else of the web is for programs."""
