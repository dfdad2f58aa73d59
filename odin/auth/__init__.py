"""Who is it: API keys, tickets, and how often somebody may be wrong."""
