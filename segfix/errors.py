"""Errors shown to the user: one line that says what was found, what was expected and what to do."""

from __future__ import annotations


class SegfixError(Exception):
    """A fault in what the user gave us; its text is complete without a traceback."""


class FileFormatError(SegfixError):
    """A file can't be read as what it should be; the text begins with its path."""


class PairingError(SegfixError):
    """Files of two folders can't be matched."""


class DeviceError(SegfixError):
    """The device asked for isn't available here."""


class MissingExtraError(SegfixError):
    """A package of an optional extra isn't installed."""
