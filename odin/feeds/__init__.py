"""Where market data comes from: one module a source, and the supervisor that keeps it running.

A feed imports no other feed.
"""
