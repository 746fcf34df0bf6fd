"""Errors shown to the user: one line that says what was found, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path


class SegfixError(Exception):
    """A fault in what the user gave us; its text is complete without a traceback.

    Args:
        found: What is wrong; without `path`, the whole text.
        path: The file (or the image of a file) that it is in; the text begins with it.
        expected: What it is compared with and should be.
        advice: What to do.

    Example:
        >>> print(SegfixError("4×3", path="a.png", expected="its label map is 5×3", advice="crop"))
        a.png: 4×3, but its label map is 5×3; crop.
    """

    def __init__(
        self,
        found: str = "",
        *,
        path: Path | str | None = None,
        expected: str = "",
        advice: str = "",
    ) -> None:
        super().__init__(found)
        self.found, self.path, self.expected, self.advice = found, path, expected, advice

    def __str__(self) -> str:
        """Render the fields as one sentence."""
        if self.path is None:
            return self.found
        expected = f", but {self.expected}" if self.expected else ""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.path}: {self.found}{expected}{advice}."


class FileFormatError(SegfixError):
    """A file can't be read as what it should be; the text begins with its path."""


class PassedOverError(FileFormatError):
    """A file is none of those that a command works on: a fault only if there are no others.

    Args:
        found: What it is instead.
        kind: The same in a word or two, to count such files by.
        path: The file.
        advice: What to do.
    """

    def __init__(
        self, found: str = "", *, kind: str = "", path: Path | str | None = None, advice: str = ""
    ) -> None:
        super().__init__(found, path=path, advice=advice)
        self.kind = kind


class PairingError(SegfixError):
    """Files of two folders can't be matched."""


class ArgumentError(SegfixError):
    """What was asked for contradicts itself: on the command line, an error of usage."""


class DeviceError(SegfixError):
    """The device asked for isn't available here."""


class MissingExtraError(SegfixError):
    """A package of an optional extra isn't installed."""


class SeveralFaultsError(SegfixError):
    """A file can't be made, for several reasons.

    Args:
        texts: Of each, complete; none: they are told elsewhere.
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        super().__init__(" ".join(texts))
        self.texts = texts


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM during a run, which is its cause.

    Args:
        done: How many were done.
        unit: Of what ("image").
        total: Of how many; None: nobody knows.
        failed: How many had failed.
    """

    def __init__(self, done: int, unit: str, total: int | None = None, failed: int = 0) -> None:
        super().__init__(done, unit, total, failed)
        self.done, self.unit, self.total, self.failed = done, unit, total, failed

    def __str__(self) -> str:
        """Render how far the run has come."""
        of = "" if self.total is None else f" of {self.total}"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}{of} {self.unit}{'s' * (self.total != 1)} done{failed}"


OUT_OF_MEMORY = "out of memory; use smaller pictures or fewer --workers."
"""What is said where a file's reading or refinement has failed for lack of it."""


EXTRAS = {"defusedxml": "polygons", "pyproj": "geo", "shapely": "polygons"}
"""That packages belong to, whatever else was asked for."""


@contextmanager
def require_extra(extra: str) -> Iterator[None]:
    """Turn a failing import of an optional package into advice."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0], extra)
        raise MissingExtraError(
            f"{error.name} isn't installed; this needs the extra {extra!r}: "
            f"pip install 'segfix-refine[{extra}]' (in a checkout: pip install '.[{extra}]')"
        ) from error


def tell_number(number: int, noun: str) -> str:
    """Write a number of things.

    Example:
        >>> tell_number(1, "image"), tell_number(0, "pixel")
        ('1 image', '0 pixels')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def tell_share(number: int, total: int, noun: str, verb: str = "is", plural: str = "are") -> str:
    """Write how many of some things do what follows.

    Example:
        >>> tell_share(1, 3, "image"), tell_share(2, 3, "image", "has", "have")
        ('1 of 3 images is', '2 of 3 images have')
    """
    return f"{number} of {tell_number(total, noun)} {verb if number == 1 else plural}"


def tell_some(names: Iterable[str]) -> str:
    """List the first three of some names.

    Example:
        >>> tell_some("ab"), tell_some("abcd")
        ('a, b', 'a, b, c, …')
    """
    first = list(islice(names, 4))
    return ", ".join([*first[:3], "…"] if len(first) > 3 else first)


def one_line(text: object) -> str:
    r"""Escape what a terminal would obey or hide in a text that quotes names and files.

    Returns:
        One line. What a terminal would obey or hide (line ends, escape sequences, reversed text,
        bytes that are no text) stands there as Python would write it.

    Example:
        >>> print(one_line("a\nb\x1b[31m.png"))
        a\nb\x1b[31m.png
    """
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(text)
    )
