"""The nodes' latest reports: the table, how reports get into it, and how it is read."""
