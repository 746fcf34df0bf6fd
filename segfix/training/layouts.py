"""Data sets as they are published, and plain folders: which label map belongs to which image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError, PairingError
from segfix.files import Entry, list_entries, pair_entries
from segfix.files.reading import path_within, read_text
from segfix.formats.images import IMAGE_SUFFIXES, read_image
from segfix.formats.label_maps import LABEL_SUFFIXES, read_label_map

VOID = -1
"""Void in what `LabelledImage.read` gives back; no file holds it."""


@dataclass(frozen=True)
class LabelledImage:
    """A photograph and its label map.

    Attributes:
        image: The photograph.
        labels: Its label map.
        instances: Its instance map, if every instance is to be a region of its own.
        void: Ids of the label map that are void.
        predictions: Label maps that networks predicted which have not seen the photograph.
    """

    image: Path
    labels: Path
    instances: Path | None = None
    void: tuple[int, ...] = ()
    predictions: tuple[Path, ...] = ()

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read (H, W, 3) RGB and (H, W) ids, `VOID` where void; instances are other ids.

        Raises:
            FileFormatError: A file is broken, or the sizes differ.
        """
        image = read_image(self.image)
        regions = self.read_labels()
        self._check_size(self.labels, "label map", regions, image)
        if self.instances is not None:
            instances = read_label_map(self.instances).ids()
            self._check_size(self.instances, "instance map", instances, image)
            known = regions != VOID
            regions[known] += instances[known].astype(np.int64) << 32
        return image, regions

    def read_labels(self) -> NDArray[np.int64]:
        """Read (H, W) class ids, `VOID` where void, without a look at the photograph.

        Raises:
            FileFormatError: The label map is broken.
        """
        labels = read_label_map(self.labels).ids().astype(np.int64)
        labels[np.isin(labels, self.void)] = VOID
        return labels

    def read_prediction(self, number: int, image: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Read (H, W) ids of one of the predictions of the photograph, which has been read.

        Raises:
            FileFormatError: The file is broken, or its size is not the photograph's.
        """
        path = self.predictions[number]
        prediction = read_label_map(path).ids().astype(np.int64)
        self._check_size(path, "prediction", prediction, image)
        return prediction

    def _check_size(
        self, path: Path, what: str, found: NDArray[Any], image: NDArray[np.uint8]
    ) -> None:
        if image.shape[:2] != found.shape:
            raise FileFormatError(
                f"{path}: {what} of {found.shape[1]}×{found.shape[0]} for an image of "
                f"{image.shape[1]}×{image.shape[0]} ({self.image.name}); sizes must be equal."
            )


@dataclass(frozen=True)
class Layout:
    """Where a published data set keeps its files; {split} and {stem} stand for names.

    Attributes:
        name: What people call it.
        images: The photographs.
        labels: The label maps and their void ids; the first kind that an image has is taken.
        instances: The instance maps, if there are any.
        stems: Text file that lists the stems of a split, where the folders don't tell it.
        splits: What the layout calls "train" and "val".
    """

    name: str
    images: str
    labels: Mapping[str, tuple[int, ...]]
    instances: str | None = None
    stems: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "val": "val"})

    def folders(self, split: str = "train") -> tuple[str, str]:
        """Name the two folders that tell the layout."""
        first, second = (
            template.split("/")[0].format(split=split)
            for template in (self.images, next(iter(self.labels)))
        )
        return first, second


PLAIN = ("images", "labels")

LAYOUTS = (
    Layout(
        "Cityscapes",
        "leftImg8bit/{split}/{stem}_leftImg8bit.png",
        {
            # Unlabeled, ego vehicle, rectification border, out of roi.
            "gtFine/{split}/{stem}_gtFine_labelIds.png": (0, 1, 2, 3),
            "gtFine/{split}/{stem}_gtFine_labelTrainIds.png": (255,),
        },
        instances="gtFine/{split}/{stem}_gtFine_instanceIds.png",
    ),
    Layout(
        "ADE20K",
        "images/{split}/{stem}.jpg",
        {"annotations/{split}/{stem}.png": (0,)},
        instances="annotations_instance/{split}/{stem}.png",
        splits={"train": "training", "val": "validation"},
    ),
    Layout(
        "Pascal VOC",
        "JPEGImages/{stem}.jpg",
        {"SegmentationClass/{stem}.png": (255,)},
        instances="SegmentationObject/{stem}.png",
        stems="ImageSets/Segmentation/{split}.txt",
    ),
    Layout("CamVid of SegNet", "{split}/{stem}.png", {"{split}annot/{stem}.png": (11,)}),
    Layout(
        "CamVid",
        "701_StillsRaw_full/{stem}.png",
        # Colours; black is void.
        {"LabeledApproved_full/{stem}_L.png": (0,)},
        splits={"train": ""},
    ),
)


def folder_name(folder: Path) -> str:
    """Name a data set for metadata: the last two parts of its path, no more."""
    return Path(*folder.resolve().parts[-2:]).as_posix()


def find_labelled_images(
    folder: Path, split: str = "train", *, ignore_index: int = 255, instances: bool = False
) -> list[LabelledImage]:
    """List the photographs of a data set with their label maps; its folders tell its layout.

    Args:
        folder: Plain `images/` and `labels/` (and `instances/`), which are of any split, and
            `preds/NETWORK/` with predictions of some or all photographs; or Cityscapes, ADE20K,
            Pascal VOC or CamVid as they are published, see `LAYOUTS`.
        split: "train" or "val".
        ignore_index: Void id of plain folders; the others have their own.
        instances: Whether to find the instance maps, too.

    Raises:
        PairingError: The layout is none of these or lacks the split or instances, a folder is
            missing or empty, or a photograph has no label map.
    """
    if all((folder / name).is_dir() for name in PLAIN):
        return _find_plain(folder, ignore_index, instances)
    for root in (folder, folder / "VOC2012", folder / "VOCdevkit" / "VOC2012"):
        for layout in LAYOUTS:
            for name in layout.splits.values():
                if all((root / part).is_dir() for part in layout.folders(name)):
                    return _find_published(root, layout, split, instances)
    known = {"plain": PLAIN, **{layout.name: layout.folders() for layout in LAYOUTS}}
    told = [f"{first}/ and {second}/ ({name})" for name, (first, second) in known.items()]
    raise PairingError(f"{folder}: no data set of a known layout; looked for {', '.join(told)}.")


def _find_plain(folder: Path, ignore_index: int, instances: bool) -> list[LabelledImage]:
    images = list_entries(folder / "images", IMAGE_SUFFIXES, what="images", recursive=True)
    labels = _partners(images, folder / "labels", "label map")
    maps: Sequence[Path | None] = [None] * len(images)
    if instances:
        if not (folder / "instances").is_dir():
            raise _no_instances(folder / "instances", "no such folder")
        maps = _partners(images, folder / "instances", "instance map")
    predictions: list[tuple[Path, ...]] = [()] * len(images)
    # Where instances are regions, what a network predicts of classes is no prediction of them.
    for preds in sorted((folder / "preds").iterdir()) if (folder / "preds").is_dir() else ():
        if instances or not preds.is_dir():
            continue
        entries = list_entries(preds, LABEL_SUFFIXES, what="predictions", recursive=True)
        pairs = pair_entries(images, entries)
        for place, pair in enumerate(pairs):
            if pair.partner is not None:
                predictions[place] += (pair.partner.path,)
    return [
        LabelledImage(image.path, label, instance, (ignore_index,), preds)
        for image, label, instance, preds in zip(images, labels, maps, predictions, strict=True)
    ]


def _partners(images: Sequence[Entry], folder: Path, what: str) -> list[Path]:
    partners = list_entries(folder, LABEL_SUFFIXES, what=f"{what}s", recursive=True)
    problems = [entry.problem for entry in (*images, *partners) if entry.problem]
    if problems:
        raise PairingError(problems[0])
    found = []
    for pair in pair_entries(images, partners, one_to_one=True):
        if pair.partner is None:
            missing = f"{pair.entry.path}: no {what} in {folder}."
            raise PairingError(pair.entry.problem or missing)
        found.append(pair.partner.path)
    return found


def _find_published(root: Path, layout: Layout, split: str, instances: bool) -> list[LabelledImage]:
    if split not in layout.splits:
        raise PairingError(
            f"{root}: {layout.name} as published has no {split} split; put the images and label "
            "maps to hold out into a folder with images/ and labels/."
        )
    if instances and layout.instances is None:
        raise _no_instances(root, f"{layout.name} has no instance maps")
    name = layout.splits[split]

    def place(template: str, stem: str) -> Path:
        return root / template.format(split=name, stem=stem)

    found = []
    for stem in _stems(root, layout, name):
        image = place(layout.images, stem)
        if not image.is_file():
            raise PairingError(f"{image}: no such image, though {split} lists it.")
        candidates = {place(labels, stem): void for labels, void in layout.labels.items()}
        label = next((path for path in candidates if path.is_file()), None)
        if label is None:
            raise PairingError(f"{image}: no label map {' or '.join(map(str, candidates))}.")
        instance = None
        if instances and layout.instances is not None:
            instance = place(layout.instances, stem)
            if not instance.is_file():
                raise _no_instances(instance, "no such instance map")
        found.append(LabelledImage(image, label, instance, candidates[label]))
    return found


def _stems(root: Path, layout: Layout, split: str) -> list[str]:
    if layout.stems is not None:
        path = root / layout.stems.format(split=split)
        try:
            stems = read_text(path).split()
        except (OSError, UnicodeDecodeError) as error:
            raise PairingError(
                f"{path}: can't read the list of the split ({type(error).__name__})."
            ) from error
        for stem in stems:
            image = path_within(root, layout.images.format(split=split, stem=stem), root, str(path))
            try:
                image.exists()
            except OSError as error:
                raise FileFormatError(
                    f"{path}: {stem[:200]!r} is no file name ({error.strerror})."
                ) from error
        if not stems:
            raise PairingError(f"{path}: lists no images.")
        return stems
    before, _, ending = layout.images.format(split=split, stem="*").partition("*")
    folder = root / before
    entries = list_entries(folder, (Path(ending).suffix or ending,), what="images", recursive=True)
    stems = [
        path.removesuffix(ending)
        for path in (entry.path.relative_to(folder).as_posix() for entry in entries)
        if path.endswith(ending)
    ]
    if not stems:
        raise PairingError(f"{folder}: no images here (*{ending}).")
    return stems


def _no_instances(path: Path, reason: str) -> PairingError:
    return PairingError(f"{path}: {reason}; add instance maps or train without --instances.")
