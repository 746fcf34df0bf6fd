"""Codecs: photographs, videos, label maps and offset maps, from files to arrays and back."""

from segfix.formats.images import IMAGE_SUFFIXES, read_image
from segfix.formats.label_maps import LABEL_SUFFIXES, LabelMap, read_label_map, write_label_map
from segfix.formats.offset_files import OFFSET_SUFFIXES, read_offset_map, write_offset_map
from segfix.formats.offset_maps import OffsetMap
from segfix.formats.videos import VIDEO_SUFFIXES, read_frames

__all__ = [
    "IMAGE_SUFFIXES",
    "LABEL_SUFFIXES",
    "OFFSET_SUFFIXES",
    "VIDEO_SUFFIXES",
    "LabelMap",
    "OffsetMap",
    "read_frames",
    "read_image",
    "read_label_map",
    "read_offset_map",
    "write_label_map",
    "write_offset_map",
]
