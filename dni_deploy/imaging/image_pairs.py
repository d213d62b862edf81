"""Images with their references: matched by their order, or in folders by their names, folders in folders among them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dni_deploy.errors import InputError, MismatchError, UsageError, escape_name
from dni_deploy.imaging.image_paths import Paths, as_path_list, scan_images


class NamedImage(NamedTuple):
    """An image of a list.

    Attributes:
        name: Its path below the folder that was given, with slashes; the file's name where the file itself was given.
        path: Where it is.
    """

    name: str
    path: str


class ImagePair(NamedTuple):
    """An image and what should come out for it.

    Attributes:
        name: As NamedImage has it.
        path: The image.
        reference: The clean image; None without.
    """

    name: str
    path: str
    reference: str | None = None


def name_images(paths: Paths, *, recursive: bool = False) -> list[NamedImage]:
    """Lists image files with their names: each path itself, or the images in it where it is a folder.

    Args:
        paths: Files and folders.
        recursive: Enter the folders in a folder, too.

    Raises:
        InputError: As `scan_images`.
    """
    images: list[NamedImage] = []
    for path in as_path_list(paths):
        if not path.is_dir():
            images.append(NamedImage(path.name, os.fspath(path)))
            continue
        for folder in scan_images(path, recursive=recursive):
            for name in folder.images:
                relative = os.path.join(folder.relative, name)
                images.append(NamedImage(Path(relative).as_posix(), os.path.join(folder.path, name)))
    return images


def pair_with_references(images: Sequence[NamedImage], references: Paths | None, *, recursive: bool = False) -> list[ImagePair]:
    """Pairs each image with its reference.

    Args:
        images: The images.
        references: One file for each image in their order; or folders, of which the file of the same name is taken, or of the
            same name with another suffix; None: there are none.
        recursive: Enter the folders in the folders of references, too.

    Raises:
        UsageError: There is another number of references, or one name stands for two images.
        InputError: The folders have no file of an image's name, or two with other suffixes.
    """
    if references is None:
        return [ImagePair(*image) for image in images]
    listed = as_path_list(references)
    if not any(reference.is_dir() for reference in listed):
        if len(listed) != len(images):
            raise UsageError(
                f"There are {len(images)} images and {len(listed)} references; give one for each, "
                "in the same order, or a folder with files of the same names."
            )
        return [ImagePair(*image, os.fspath(reference)) for image, reference in zip(images, listed, strict=True)]
    _check_names_differ(images)
    candidates: dict[str, list[NamedImage]] = defaultdict(list)
    for reference in name_images(listed, recursive=recursive):
        candidates[_drop_suffix(reference.name)].append(reference)
    missing = [image for image in images if _drop_suffix(image.name) not in candidates]
    if missing:
        raise InputError(
            f"There is no reference named {escape_name(_drop_suffix(missing[0].name))} for {escape_name(missing[0].path)}; "
            f"of {len(images)} images {len(missing)} have none."
        )
    return [ImagePair(*image, _choose_reference(image, candidates[_drop_suffix(image.name)])) for image in images]


def check_reference_size(
    image: str | os.PathLike[str],
    reference: str | os.PathLike[str],
    output_size: tuple[int, int],
    reference_size: tuple[int, int],
) -> None:
    """Checks that an output can be compared with its reference; both sizes are (height, width).

    Raises:
        MismatchError: They differ.
    """
    if output_size != reference_size:
        raise MismatchError(
            f"The reference {escape_name(reference)} is {reference_size[1]}x{reference_size[0]} pixels "
            f"and the output for {escape_name(image)} will be {output_size[1]}x{output_size[0]}; they must be of one size."
        )


def _drop_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _check_names_differ(images: Sequence[NamedImage]) -> None:
    """Checks that no reference would be that of two images."""
    first_by_name: dict[str, NamedImage] = {}
    for image in images:
        first = first_by_name.setdefault(image.name, image)
        if first is not image:
            raise UsageError(
                f"{escape_name(first.path)} and {escape_name(image.path)} have one name, so that one reference would be that of "
                "both; give the folder above both (-r), or a reference for each in the same order."
            )


def _choose_reference(image: NamedImage, references: Sequence[NamedImage]) -> str:
    """Chooses the reference of the image's own name, or else the only one with another suffix."""
    same = [reference for reference in references if reference.name == image.name]
    chosen = same or references
    if len(chosen) > 1:
        raise InputError(
            f"There are {len(chosen)} references for {escape_name(image.path)}: {escape_name(chosen[0].path)} and "
            f"{escape_name(chosen[1].path)}; leave one of them."
        )
    return chosen[0].path
