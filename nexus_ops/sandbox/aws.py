"""AWS of the sandbox: moto's server, one for all clusters, as a process of its own."""

from __future__ import annotations

import argparse
import signal
import threading


def serve(port: int) -> None:
    """Answer on a loopback port until SIGTERM or SIGINT."""
    from moto.server import ThreadedMotoServer  # pyright: ignore[reportMissingTypeStubs]  # has none; slow to import

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    stopped.wait()
    server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="AWS, emulated.")
    parser.add_argument("--port", type=int, required=True)
    serve(parser.parse_args().port)


if __name__ == "__main__":
    main()
