"""The nodes' latest reports: the table, what goes into it, and what comes out of it."""
