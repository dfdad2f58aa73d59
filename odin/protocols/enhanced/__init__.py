"""The `/enhanced-stream` protocol."""
