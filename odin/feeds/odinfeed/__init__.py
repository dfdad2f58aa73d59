"""The broadcast feed of brokers whose trading system is 63 moons' ODIN; see docs/feeds/odin.md."""
