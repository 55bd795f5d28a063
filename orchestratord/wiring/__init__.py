"""From Settings to the parts of the daemon. Nothing else reads Settings."""
