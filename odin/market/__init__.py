"""The model of the market: instruments, quotes, trading calendar and clock. No I/O."""
