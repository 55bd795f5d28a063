"""The options, and how they become checked Settings."""
