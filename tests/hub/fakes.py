"""A socket that holds what the test says, for the hub."""

import asyncio


class Socket:
    """A sink whose transport holds what the test says."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.held = 0
        self.stalls = 0
        self.faults = 0

    def write(self, data: bytes) -> int:
        self.writes.append(data)
        return self.held

    def backlog_bytes(self) -> int:
        return self.held

    def on_stalled(self) -> None:
        self.stalls += 1

    def on_fault(self) -> None:
        self.faults += 1

    @property
    def text(self) -> str:
        return b"".join(self.writes).decode()


async def turn(times: int = 3) -> None:
    for _ in range(times):
        await asyncio.sleep(0)
