"""Files of other tools: what they are, and what to export instead. Nothing of them is run."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

PICKLE = (
    "a pickle, which may run code when it is read",
    "write PNG, .npy (np.save) or COCO JSON instead",
)
TORCH = (
    "a PyTorch file, which may run code when it is read",
    "write COCO JSON instead; Detectron2's evaluator makes coco_instances_results.json beside it",
)
HDF5 = ("HDF5", "save its arrays as .npy or .npz")
VOLUME = "write its slices as PNG or .npy"
POLYGONS = "export masks as PNG, or COCO JSON"
APART = "as predictions, such files are read where no label maps are among them"

CONTENTS: dict[str, tuple[bytes, tuple[str, str]]] = {
    "Git LFS": (
        rb"version https://git-lfs",
        ("a pointer of Git LFS, not the file itself", "git lfs pull fetches it"),
    ),
    "HDF5": (rb"\x89HDF\r\n", HDF5),
    "pickle": (rb"\x80[\x02-\x05][\x8a\x95}\](cq]", PICKLE),
    "torch": (rb"PK\x03\x04.{26}[^/]{1,80}/data\.pkl", TORCH),
    "NumPy": (rb"\x93NUMPY", ("a NumPy array", "as a label map, give it the ending .npy")),
    "NumPy archive": (rb"PK\x03\x04.{26}[^/]{1,80}\.npy", ("NumPy arrays", "name it .npz")),
    "NIfTI": (rb".{344}n[i+]1\0", ("a NIfTI volume", VOLUME)),
    "DICOM": (rb".{128}DICM", ("DICOM", VOLUME)),
    "NRRD": (rb"NRRD000", ("an NRRD volume", VOLUME)),
    "FITS": (rb"SIMPLE  =", ("FITS", VOLUME)),
    "Photoshop": (rb"8BPS", ("a Photoshop file", "save it as PNG or TIFF")),
    "PDF": (rb"%PDF", ("a PDF file", "save its pages as pictures")),
    "HEIC": (
        rb".{4}ftyp(?:heic|heix|hevc|mif1|msf1)",
        ("a HEIF picture", "save it as JPEG or PNG"),
    ),
    "video": (rb".{4}ftyp|\x1a\x45\xdf\xa3", ("a video", "give it its own ending, .mp4 say")),
    "SVG": (rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!.*?>\s*)*<svg", ("SVG", "save it as PNG")),
    "CVAT": (rb"\s*<\?xml[^>]*>\s*<annotations>", ("annotations of CVAT", APART)),
    "VOC": (rb"\s*<annotation>", ("boxes in Pascal VOC's XML", "masks are needed; " + POLYGONS)),
    "HTML": (
        rb"(?i)\s*<(?:!doctype )?html",
        ("a web page, as failed downloads leave", "fetch the file again"),
    ),
    "TIFF": (
        rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
        ("TIFF of bands or bits that aren't read", "write one band, or colours of 8 bits"),
    ),
    "empty": (rb"\Z", ("an empty file", "make it anew")),
}
"""How the first bytes of files begin, what they are, and what to do."""

ENDINGS: dict[str, tuple[str, str]] = {
    **dict.fromkeys((".pkl", ".pickle"), PICKLE),
    **dict.fromkeys((".pth", ".pt", ".ckpt"), TORCH),
    **dict.fromkeys((".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".dcm"), ("a volume", VOLUME)),
    **dict.fromkeys((".h5", ".hdf5"), HDF5),
    ".gz": ("a packed file, of NIfTI perhaps", VOLUME),
    ".zarr": ("Zarr", "save its arrays as .npy or .npz"),
    ".mat": ("MATLAB arrays", "save them as PNG or .npy"),
    ".psd": ("a Photoshop file", "save it as PNG or TIFF"),
    ".svg": ("SVG", "save it as PNG"),
    ".xml": ("annotations of CVAT or Pascal VOC", APART),
    ".geojson": ("GeoJSON", APART),
    ".gpkg": ("a GeoPackage", APART),
    **dict.fromkeys((".shp", ".kml", ".gml"), ("shapes", "write them as .gpkg (ogr2ogr)")),
    ".txt": ("text, of YOLO perhaps", APART),
    ".json": ("JSON, of COCO, LabelMe or Label Studio perhaps", APART),
}
"""The same by file name endings, where the contents tell nothing."""

LONGEST_START = 1024


def name_foreign(path: Path) -> tuple[str, str] | None:
    """Name the kind of a file that isn't one of ours.

    Args:
        path: A file, or a name that none may have.

    Returns:
        What it is, and what to do; None where nobody knows.

    Example:
        >>> name_foreign(Path("results.pkl"))[0]
        'a pickle, which may run code when it is read'
    """
    with suppress(OSError), path.open("rb") as file:
        start = file.read(LONGEST_START)
        for pattern, named in CONTENTS.values():
            if re.match(pattern, start, re.DOTALL):
                return named
    name = path.name.lower()
    return next((named for ending, named in ENDINGS.items() if name.endswith(ending)), None)
