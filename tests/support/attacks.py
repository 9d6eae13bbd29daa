"""Cells that try to leave something behind, or to take all there is. For tests and benchmarks of a real pool."""

from __future__ import annotations

ATTACKS = {
    "nothing": "1 + 1",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "memory bomb": "held = bytearray(3 << 30)\nfor n in range(0, len(held), 4096): held[n] = 1",
    "daemons": "import subprocess\nfor _ in range(20): subprocess.Popen(['setsid', 'sleep', '1000'])",
    "full disk": "for n in range(2000): open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))",
    "suicide": "import os; os.kill(os.getpid(), 9)",
    "many sockets": "import socket\nheld = [socket.socket() for _ in range(5000)]",
}
