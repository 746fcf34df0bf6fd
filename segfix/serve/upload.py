"""What a client sends: two files and how to fix the second."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import python_multipart  # noqa: F401 - starlette imports it when the first form comes
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from segfix.instances.refine_images import Form
from segfix.refinement.apply import RefineSettings
from segfix.refinement.kept_ids import parse_id
from segfix.refinement.sizes import FITS, Fit
from segfix.tasks.predictions import FileSettings

FILES = ("image", "prediction")
"""Form fields that are files, each kept in a folder of that name."""

LONGEST_NAME, LONGEST_FIELD = 80, 1000
"""Characters of a file's name that are kept, and bytes of any other field."""


@dataclass(frozen=True)
class Upload:
    """What is to be done.

    Attributes:
        folder: Private, of this upload alone.
        image: The photograph, in it.
        prediction: In it.
        refining: How to refine.
        reading: How the prediction is read, and what of it is written.
        form: What all instances become; None: they stay polygons or masks.
        simplify: How far polygons may leave the pixels' edges, pixels.
        passes: How often the prediction is looked at and refined.
    """

    folder: Path
    image: Path
    prediction: Path
    refining: RefineSettings
    reading: FileSettings
    form: Form | None = None
    simplify: float = 0.5
    passes: int = 1


def between(lowest: float, highest: float, kind: type = float) -> Callable[[str], Any]:
    """Make a reader of numbers in a range."""

    def read(text: str) -> Any:
        number = kind(text)
        if not lowest <= number <= highest:
            raise ValueError
        return number

    return read


def read_ids(text: str) -> list[int]:
    """Read ids with commas between; "none" are none."""
    return [] if text == "none" else list(map(parse_id, text.split(",")))


STEPS = between(0, 64)
SWITCH: Callable[[str], bool] = {"true": True, "on": True, "false": False}.__getitem__
FIT: dict[str, Fit] = dict(zip(FITS, FITS, strict=True))

FIELDS: dict[str, tuple[Any, str, Callable[[str], Any]]] = {
    "scale": (None, "auto or 0 … 64", lambda text: None if text == "auto" else STEPS(text)),
    "iterate": (0, "0 … 1000", between(0, 1000, int)),
    "min_confidence": (0.0, "0 … 1", between(0, 1)),
    "keep": (None, "none, ids such as 255,0 or colours #RRGGBB", read_ids),
    "fit": (None, "one of " + ", ".join(FITS), FIT.__getitem__),
    "soft": (False, "true or false", SWITCH),
    "argmax": (False, "true or false", SWITCH),
    "key": (None, "the name of an array", str),
    "empty": ("keep", "keep or drop", {"keep": "keep", "drop": "drop"}.__getitem__),
    "as": (None, "polygons or rle", {"polygons": "polygons", "rle": "rle"}.__getitem__),
    "simplify": (0.5, "0 … 64", STEPS),
    "passes": (1, "1 … 4", between(1, 4, int)),
}
"""The other form fields, options of `segfix fix`: what each is unless it says anything, what it may
be, and its reader."""


async def receive_upload(request: Request, folder: Path, max_bytes: int) -> Upload:
    """Receive the form of a request.

    Args:
        request: Whose body is multipart/form-data.
        folder: Where the files are kept.
        max_bytes: Of the body.

    Raises:
        HTTPException: The form is broken, incomplete or too large.
        ClientDisconnect: The client is gone.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(
            415, "expected a form (multipart/form-data) with an image and a prediction."
        )
    # Not all clients state the length, and what they state may be wrong.
    length, arrived = int(request.headers.get("content-length", 0)), 0

    async def receive() -> Message:
        nonlocal arrived
        message = {"type": ""} if length > max_bytes else await request.receive()
        arrived += len(message.get("body", b""))
        if max(length, arrived) > max_bytes:
            text = f"the upload has more than {max_bytes} bytes; --max-bytes allows more."
            raise HTTPException(413, text)
        return message

    async with Request(request.scope, receive).form(
        max_files=len(FILES), max_fields=len(FIELDS), max_part_size=LONGEST_FIELD
    ) as form:
        paths = {name: await keep_file(form, name, folder) for name in FILES}
        given = read_fields({name: form[name] for name in form if name not in FILES})
    refining = {name: given.pop(name) for name in ("scale", "iterate", "min_confidence", "keep")}
    written = given.pop("as"), given.pop("simplify"), given.pop("passes")
    drop_empty = given.pop("empty") == "drop"
    if refining["iterate"] and refining["scale"] is not None:
        raise HTTPException(400, "scale has no effect with iterate; give one of them.")
    return Upload(
        folder,
        paths["image"],
        paths["prediction"],
        RefineSettings(**refining),
        FileSettings(**given, drop_empty=drop_empty),
        *written,
    )


async def keep_file(form: FormData, field: str, folder: Path) -> Path:
    """Keep an uploaded file under the name that the client calls it by, or one like that.

    Raises:
        HTTPException: The field holds no file.
    """
    upload = form.get(field)
    # What stands before the name may be a path on the client's machine, and is nobody's business.
    name = re.split(r"[/\\]", getattr(upload, "filename", None) or "")[-1]
    name = re.sub(r"[^\w.-]", "_", name)[-LONGEST_NAME:].lstrip(".")
    if not isinstance(upload, UploadFile) or not name:
        raise HTTPException(400, f"no file in the field {field!r}; send an image and a prediction.")
    path = folder / field / name

    def copy() -> None:
        path.parent.mkdir()
        with path.open("xb") as file:
            shutil.copyfileobj(upload.file, file)

    await anyio.to_thread.run_sync(copy)
    return path


def read_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields that are no files.

    Args:
        given: Texts by name; what is left out is as in `segfix fix`.

    Returns:
        The value of each of `FIELDS`.

    Raises:
        HTTPException: One is unknown, or can't be that.
    """
    if unknown := sorted(given.keys() - FIELDS.keys()):
        known = ", ".join((*FILES, *FIELDS))
        raise HTTPException(400, f"unknown field {unknown[0]!r}; known ones are {known}.")
    found = {}
    for name, (default, expected, read) in FIELDS.items():
        text = given.get(name, "")
        try:
            found[name] = read(text) if text else default
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise HTTPException(400, f"{name}: expected {expected}.") from error
    return found
