"""nats-server's WebSocket listener with a publisher in C beside it; both count as the server.

Usage: nats_server.py NATS_SERVER PUBLISHER TOPICS
"""

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from source import announce, raise_file_limit

CONFIG = """
listen: "127.0.0.1:{tcp}"
websocket {{ listen: "127.0.0.1:{ws}", no_tls: true, compression: false }}
max_pending: 67108864
max_connections: 100000
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    sys.exit("nats-server did not listen")


def main(nats_server: str, publisher: str, topics: str) -> None:
    raise_file_limit()
    tcp, ws = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nats.conf"
        config.write_text(CONFIG.format(tcp=tcp, ws=ws))
        server = subprocess.Popen([nats_server, "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            wait_for(ws)
            # It reads the commands of the runner from the standard input it inherits.
            with subprocess.Popen([publisher, str(tcp), topics]) as source:
                announce(ws)
                source.wait()
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
