"""The sandbox from the command line: start, stop, status, demo."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from nexus_ops.errors import OperationError, PermanentError
from nexus_ops.sandbox import supervisor, ui
from nexus_ops.topology import project_folder


def main() -> None:
    """Parse the command, carry it out; an error is one sentence and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="nexus-sandbox", description="Everything that nexus-ops talks to, on this machine."
    )
    parser.add_argument("command", choices=("start", "stop", "status", "demo"))
    parser.add_argument("--clusters", help="comma-separated; default: all that the topology enables")
    parser.add_argument("--only", help="comma-separated parts besides the API: " + ", ".join(supervisor.PARTS[1:]))
    parser.add_argument("--port", action="append", default=[], metavar="NAME=NUMBER", help="fix one: api=8001")
    parser.add_argument("--home", type=Path, help="state folder; default: $NEXUS_HOME, else .nexus")
    options = parser.parse_args()
    home = (options.home or Path(os.environ.get("NEXUS_HOME") or project_folder() / ".nexus")).absolute()
    try:
        carry_out(options, home)
    except OperationError as error:
        sys.exit(f"nexus-sandbox: {error}")


def carry_out(options: argparse.Namespace, home: Path) -> None:
    """One command."""
    if options.command == "start":
        running = supervisor.find(home)
        parts = tuple(options.only.split(",")) if options.only else supervisor.DEFAULT_PARTS
        names = options.clusters.split(",") if options.clusters else None
        if running and (others := sorted(set(names or ()) - set(running.clusters))):
            todo = "End it first: nexus-sandbox stop."
            raise PermanentError(f"the sandbox runs already, without {', '.join(others)}.", todo=todo)
        state = running or supervisor.start(home, names, parts, ports=fixed_ports(options.port))
        print("the sandbox runs already" if running else "the sandbox is up")
        print(f"export KUBECONFIG={state.kubeconfig}")
    elif options.command == "stop":
        stopped = [ui.stop(home), supervisor.stop(home)]
        print("ended" if any(stopped) else "nothing was running")
    elif options.command == "status":
        status(home)
    else:
        from nexus_ops.sandbox import demo

        demo.run(home)


def fixed_ports(texts: list[str]) -> dict[str, int]:
    """Ports from `api=8001` and its like."""
    found: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not number.isdigit() or not 0 < int(number) < 65536:
            raise PermanentError(f"{text!r} names no port.", todo="Write it like api=8001; a port is 1 to 65535.")
        if name not in supervisor.PORTS:
            todo = f"What has a port: {', '.join(supervisor.PORTS)}."
            raise PermanentError(f"nothing in the sandbox listens as {name!r}.", todo=todo)
        found[name] = int(number)
    return found


def status(home: Path) -> None:
    """What runs, where, and how much memory it takes."""
    state = supervisor.find(home)
    if state is None:
        print("the sandbox does not run")
        return
    used = supervisor.memory(state)
    for name, urls in state.clusters.items():
        print(f"{name}: API {urls['api']}, edge {urls['edge']}, Prometheus {urls['prometheus']}")
    for name, size in used.items():
        print(f"  {name:32} {size >> 20:5} MiB")
    print(f"  {'together':32} {sum(used.values()) >> 20:5} MiB (PSS)")
    if running := ui.find(home):
        print(f"UI: {running.url}")


if __name__ == "__main__":
    main()
