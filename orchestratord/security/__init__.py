"""Who may do what: roles, tokens, keys and TLS."""
