"""Building blocks that know nothing of reports or queries."""
