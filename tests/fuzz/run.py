"""Broken and hostile files for every reader: is the outcome a value or one of our errors?

    python -m tests.fuzz.run --files 10000 labels-png coco

Each reader's good files are changed, one at a time: bytes at random, and what the format consists
of (PNG chunks with their checksums, TIFF tags, members of archives, JSON values, …). Forks of this
process read them, with limits on memory, time and what they may write. A finding is any exception
but ours, a warning, a file written, a network connection, a process that dies or takes too long;
the files are kept in a folder of its name. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from segfix.errors import SegfixError
from segfix.files.limits import limit_reading
from segfix.jobs.task import Skipped
from tests.fuzz.changes import CHANGES, change_bytes
from tests.fuzz.readers import READERS, Reader
from tests.fuzz.samples import Files

SECONDS = 10
"""Of the processor, for one file; with waiting, twenty times as many."""
MEMORY = 3 << 30
"""Bytes that reading may add: a picture of --max-pixels in four channels takes two thirds of it."""
LONGEST_RESULT = 512 << 20
"""Bytes of a file written by what writes."""
PER_FORK = 500

UNCHANGEABLE = (ValueError, LookupError, TypeError, AttributeError, MemoryError, zipfile.BadZipFile)
"""What changing a file that is changed already may raise; then its bytes are."""


def make_files(samples: list[Files], rng: Random) -> Files:
    """A set of good files of which one is changed."""
    files = dict(rng.choice(samples))
    name = rng.choice(list(files))
    suffix = Path(name).suffix
    content = files[name]
    if suffix in CHANGES and rng.random() < 0.75:
        with suppress(*UNCHANGEABLE):
            content = CHANGES[suffix](content, rng)
    if content == files[name] or rng.random() < 0.15:
        content = change_bytes(content, rng)
    if rng.random() < 0.01:
        content = rng.choice((b"", b"\0", rng.randbytes(100), rng.choice(list(files.values()))))
    if rng.random() < 0.01:
        del files[name]
    else:
        files[name] = content
    return files


def put(files: Files, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: what no reader of files has to do."""
    if event in (
        *("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec"),
        *("os.posix_spawn", "pickle.find_class"),
    ):
        os.kill(os.getpid(), signal.SIGUSR1)


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def outcome_of(reader: Reader, folder: Path) -> tuple[str, str]:
    """What becomes of reading a folder: "value", "error" or "finding", and what is told."""
    before = listing(folder)
    try:
        reader.read(folder)
    except Skipped:
        found = "value", ""
    except SegfixError as error:
        found = "error", str(error)
        if str(folder.parent) not in str(error):
            found = "finding", f"names no file: {str(error)[:300]}"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in where if "/segfix/" in frame.filename] or where
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        found = "finding", f"{type(error).__name__} at {place}: {str(error)[:300]}"
    else:
        found = "value", ""
    if new := listing(folder) - before:
        found = "finding", f"wrote {sorted(new)[:3]}"
    return found


def read_some(
    reader: Reader, samples: list[Files], name: str, seed: int, numbers: range, pipe: int, out: Path
) -> None:
    """In a fork: read files, and tell what became of each."""
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (space + MEMORY, space + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(forbid)
    warnings.resetwarnings()
    warnings.simplefilter("error")
    # As the command line does.
    warnings.filterwarnings("ignore", module="PIL")
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    folder = out / "in"
    for number in numbers:
        # One file's memory is not the next one's.
        gc.collect()
        put(make_files(samples, Random(f"{seed} {name} {number}")), folder)
        shutil.rmtree(out / "out", ignore_errors=True)
        os.write(pipe, f"{number}\n".encode())
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = LONGEST_RESULT if reader.writes else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 20 * SECONDS)
        kind, text = outcome_of(reader, folder)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        os.write(pipe, (json.dumps([number, kind, text]) + "\n").encode())


def forked(work: Callable[[int], None]) -> tuple[list[str], int, int]:
    """Lines that some work writes to a pipe in a fork, its wait status and peak memory in KiB."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(reading)
            # Not into a file, for which there is a limit.
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
            for number in (1, 2):
                os.dup2(sys.stdout.fileno(), number)
            faulthandler.disable()
            # What the first process has left over is not deleted here.
            gc.freeze()
            work(writing)
            status = 0
        except BaseException:
            with suppress(OSError):
                os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as pipe:
        lines = pipe.read().splitlines()
    _, status, usage = os.wait4(pid, 0)
    return lines, status, usage.ru_maxrss


@dataclass
class Result:
    """What became of one reader's files."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0


def fuzz(name: str, files: int, *, seed: int = 0, keep: Path | None = None) -> Result:
    """Read so many changed files with a reader of `READERS`; findings are kept in a folder."""
    reader, result = READERS[name], Result()
    for module in reader.imports:
        __import__(module)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        here = Path(scratch)
        (here / "cwd").mkdir()
        # In a fork, too: libraries that make files may start threads.
        stored = here / "samples.json"

        def store(_: int) -> None:
            rows = [
                {path: content.hex() for path, content in found.items()} for found in reader.files()
            ]
            stored.write_text(json.dumps(rows))

        told, status, _ = forked(store)
        assert not status, "\n".join(told)
        samples = [
            {path: bytes.fromhex(content) for path, content in found.items()}
            for found in json.loads(stored.read_text())
        ]
        done = 0
        while done < files:
            numbers = range(done, min(done + PER_FORK, files))

            def work(pipe: int, numbers: range = numbers) -> None:
                os.chdir(here / "cwd")
                read_some(reader, samples, name, seed, numbers, pipe, here)

            lines, status, peak = forked(work)
            result.peak = max(result.peak, peak)
            done, last = numbers.stop, numbers.start - 1
            for line in lines:
                if line.isdecimal():
                    last = int(line)
                    continue
                assert line.startswith("["), (last, "\n".join(lines[-30:]))
                number, kind, text = json.loads(line)
                result.counts[kind] += 1
                if kind == "finding":
                    result.findings.append((number, text))
            if os.WIFSIGNALED(status):
                how = signal.Signals(os.WTERMSIG(status)).name
                result.counts["finding"] += 1
                result.findings.append((last, f"ended by {how}"))
                done = last + 1
            assert not (left := listing(here / "cwd")), left
        for number, text in result.findings if keep else ():
            assert keep is not None
            put(make_files(samples, Random(f"{seed} {name} {number}")), keep / name / str(number))
            (keep / name / f"{number}.txt").write_text(text + "\n", encoding="utf-8")
    result.seconds = time.monotonic() - started
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="for findings")
    given = parser.parse_args(arguments)
    if unknown := set(given.readers) - set(READERS):
        parser.error(f"no such reader: {', '.join(unknown)}")
    with limit_reading(max_pixels=500_000_000):
        return 1 if fuzz_all(given) else 0


def fuzz_all(given: argparse.Namespace) -> int:
    """Fuzz the readers asked for and print what was found; how many findings there are."""
    found = 0
    print("| reader | files | values | errors | findings | s | peak, MiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in given.readers or READERS:
        result = fuzz(name, given.files, seed=given.seed, keep=given.keep)
        counts = result.counts
        print(
            f"| {name} | {given.files} | {counts['value']} | {counts['error']} | "
            f"{len(result.findings)} | {result.seconds:.0f} | {result.peak / 1024:.0f} |",
            flush=True,
        )
        kinds = Counter(re.sub(r"\d+", "0", text)[:160] for _, text in result.findings)
        first: dict[str, int] = {}
        for number, text in result.findings:
            first.setdefault(re.sub(r"\d+", "0", text)[:160], number)
        for text, count in kinds.most_common(12):
            print(f"    {count} × {text!r}, first {given.keep}/{name}/{first[text]}", flush=True)
        found += len(result.findings)
    return found


if __name__ == "__main__":
    sys.exit(main())
