"""The write-ahead log on disk in which reports wait for the store."""
