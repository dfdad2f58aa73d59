"""Zerodha's Kite ticker: `wire` and `text` are its protocol, `feed` the client."""
