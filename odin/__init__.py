"""Odin Streamer: live Indian market data over WebSocket, with subscriptions that survive."""

__version__ = "0.1.0"
