"""The aiohttp application around a node: routes, status and REST, and running it."""
