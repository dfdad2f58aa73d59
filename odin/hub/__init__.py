"""Who gets what: topics in, bytes out. Knows nothing of markets, messages or sockets."""
