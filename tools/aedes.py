"""A real broker of another kind on loopback, which speaks only MQTT 3.1.1; for tests."""

import socket
from pathlib import Path

from server import Server, cache, free_port

#: What ``make servers`` has unpacked, and what makes a broker of it.
AEDES = cache() / "aedes" / "node_modules" / "aedes" / "aedes.js"
BROKER = Path(__file__).with_name("aedes.mjs")


class Aedes(Server):
    """An aedes with its log in *directory*; it forgets all when it ends."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        super().__init__(port, ["node", str(BROKER), str(AEDES), str(port)], directory / "aedes.log", "")

    def _reach(self) -> None:
        socket.create_connection(("127.0.0.1", self.port), 5).close()
