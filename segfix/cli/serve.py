"""segfix serve."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from segfix.cli import options
from segfix.cli.predict_offsets import max_side_option
from segfix.errors import SegfixError, one_line

number = partial(click.option, show_default=True, metavar="N")
limit = partial(number, expose_value=False)


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen at. Others than the default let other machines in.",
)
@number("--port", type=click.IntRange(0, 65535), default=8000, help="0 takes any free one.")
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Further name to be asked by, as behind a proxy; repeatable. [default: addresses, "
    "localhost and --host]",
)
@options.weights
@options.device
@max_side_option
@number("--workers", type=click.IntRange(1), default=2, help="Uploads worked on at a time.")
@number(
    "--queue",
    type=click.IntRange(0),
    default=32,
    help="Further uploads taken at a time; more are told to come back.",
)
@number(
    "--timeout",
    type=options.FiniteRange(0.1),
    default=120,
    metavar="SECONDS",
    help="For an upload to arrive, for it to be fixed, and for the result to be taken.",
)
@limit(
    "--max-pixels",
    type=click.IntRange(2),
    default=50_000_000,
    callback=options.limit_pixels,
    help="Refuse larger pictures and arrays.",
)
@limit(
    "--max-bytes",
    type=click.IntRange(1),
    default=1 << 28,
    callback=options.limit_bytes,
    help="Refuse larger uploads, and arrays that unpack to more.",
)
@options.quiet
def serve(
    host: str,
    port: int,
    hosts: tuple[str, ...],
    weights: str | None,
    device: str,
    max_side: int | None,
    workers: int,
    queue: int,
    timeout: float,
    quiet: bool,
) -> None:
    """Open a page in the browser to try it on: drop a photograph and a mask, see before and after.

    The page and an HTTP API for other programs (/docs) are on this machine alone unless --host says
    else, and load nothing from elsewhere. Uploads are removed once they are answered. Ctrl-C ends
    it. Needs the extra 'serve'.
    """
    with options.missing_extra("serve"):
        from segfix.serve.app import Capacity, build_app, build_server
    from segfix.network.offset_model import load
    from segfix.tasks.fixing import Fixing

    # First: to load the network takes longer than to learn that the port is in use.
    with open_socket(host, port) as listening, TemporaryDirectory(prefix="segfix-serve-") as folder:
        model = load(weights, device=device)
        address, port = listening.getsockname()[:2]
        if not ipaddress.ip_address(address).is_loopback:
            text = (
                f"segfix: {host} lets other machines in: whoever reaches port {port} can use this, "
                "unencrypted and without a password."
            )
            click.echo(one_line(text), err=True)
        if not quiet:
            told = f"weights {model.metadata['name']} on {model.device}; Ctrl-C ends it"
            click.echo(one_line(told), err=True)
            click.echo(f"http://{f'[{address}]' if ':' in address else address}:{port}/")
        names = frozenset(name.lower() for name in (host, *hosts))
        capacity = Capacity(workers, queue, timeout)
        place = Path(folder).resolve()
        app, desk = build_app(Fixing(lambda: model, max_side=max_side), place, capacity, names)
        try:
            build_server(app).run(sockets=[listening])
        except KeyboardInterrupt:
            # How it is meant to end.
            pass
        finally:
            desk.pool.shutdown(cancel_futures=True)


def open_socket(host: str, port: int) -> socket.socket:
    """Take the port.

    Raises:
        SegfixError: It is in use, or can't be taken here.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":
                # There, two programs would share the port.
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen()
        except BaseException:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:
        used = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "is in use" if used else f"can't be taken ({getattr(error, 'strerror', error)})"
        raise SegfixError(
            f"port {port} of {host} {reason}; --port takes another, --port 0 any free one."
        ) from error
    return listening
