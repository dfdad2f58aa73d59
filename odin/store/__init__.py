"""The database: clients and their subscriptions, instruments, daily history."""
