"""The routes that programs use."""
