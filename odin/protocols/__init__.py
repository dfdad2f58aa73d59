"""What clients speak: one folder a protocol, and what they share about sockets."""
