"""Images that are files: folders of classes, flat folders, lists of paths."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from salience.data.base import ImageRef, ImageSource, Label, RawImage, hash_content, label_names_of
from salience.errors import ImagesError

SUFFIXES = frozenset(
    ".avif .bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()  # noqa: SIM905
)


class FileSource(ImageSource):
    """Images that are read from one file each."""

    def stamp(self, ref: ImageRef) -> tuple[int, int]:
        """Return (size in bytes, modification time in ns) of the file."""
        try:
            status = Path(_path(ref)).stat()
        except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
            raise _unreadable(ref, error) from error
        return status.st_size, status.st_mtime_ns

    def read(self, ref: ImageRef) -> RawImage:
        """Read the file's bytes."""
        try:
            data = Path(_path(ref)).read_bytes()
        except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
            raise _unreadable(ref, error) from error
        return RawImage(data, hash_content(data), ref.where)


def _path(ref: ImageRef) -> str:
    if ref.path is None:
        raise ImagesError(f"Image {ref.image_id} is no file: it belongs to another source.")
    return ref.path


def _unreadable(ref: ImageRef, error: OSError | ValueError) -> ImagesError:
    if isinstance(error, FileNotFoundError):
        return ImagesError(f"{ref.where}: there is no such file.")
    return ImagesError(f"{ref.where}: cannot be read: {getattr(error, 'strerror', None) or error}.")


def open_paths(
    paths: Sequence[str],
    labels: Sequence[Label | None] | None,
    limit: int | None,
    *,
    ids: Sequence[str] | None = None,
    location: str | None = None,
) -> FileSource:
    """Open a list of image files; each path, as it was given, is the image's id.

    Raises
    ------
    ImagesError
        When a path occurs twice or the labels are not as many as the paths.
    """
    names = ids or [Path(p).as_posix() for p in paths]
    check_ids(names, [f"item {i}" for i in range(len(names))])
    values = check_labels(labels, len(paths))
    refs = [
        ImageRef(i, name, label, str(Path(path).expanduser().absolute()))
        for i, (name, label, path) in enumerate(zip(names, values, paths, strict=True))
    ]
    return FileSource(
        kind="files",
        location=location or f"list of {len(paths)} paths",
        refs=refs[:limit],
        label_names=label_names_of(values),
    )


def open_folder(path: Path, *, limit: int | None, location: str) -> FileSource:
    """Open a folder whose sub-folders are classes, or a flat folder; see :func:`salience.data.source.open_images`.

    Raises
    ------
    ImagesError
        When no image is below it, or a folder below it cannot be listed.
    """
    root = path.absolute()
    others: Counter[str] = Counter()
    found = sorted(_image_files(root, "", (), others))
    if not found:
        raise ImagesError(_no_images(location, others))
    labels = [name.split("/", 1)[0] if "/" in name else None for name in found]
    kept = range(len(found)) if limit is None else _in_turn(labels, limit)
    refs = [ImageRef(i, found[k], labels[k], str(root / found[k])) for i, k in enumerate(kept)]
    return FileSource(kind="folder", location=location, refs=refs, label_names=label_names_of(labels))


def _image_files(folder: Path, prefix: str, above: tuple[str, ...], others: Counter[str]) -> Iterator[str]:
    """Yield the images below ``folder`` as paths relative to the root; count the suffixes of the other files.

    Links to folders are followed, as data sets are often made of them, but never into a folder that contains them.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise ImagesError(f"{folder} cannot be listed: {error.strerror or error}.") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = prefix + entry.name
        if entry.is_dir():
            yield from _image_files(folder / entry.name, name + "/", (*above, real), others)
        elif (suffix := Path(entry.name).suffix.lower()) in SUFFIXES:
            if not name.isascii():
                _check_name(folder, entry.name)
            yield name
        else:
            others[suffix or "no suffix"] += 1


def _check_name(folder: Path, name: str) -> None:
    """Refuse names that are no text: they would be image ids, which are written to tables."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ImagesError(f"The name of the file {os.fsencode(name)!r} in {folder} is not UTF-8: rename it.") from error


def _in_turn(labels: Sequence[str | None], limit: int) -> list[int]:
    """Return positions of ``limit`` images, taken from each class in turn, in ascending order."""
    classes: dict[str | None, list[int]] = {}
    for position, label in enumerate(labels):
        classes.setdefault(label, []).append(position)
    turns = (position for turn in zip_longest(*classes.values()) for position in turn if position is not None)
    return sorted(position for position, _ in zip(turns, range(limit), strict=False))


def _no_images(location: str, others: Counter[str]) -> str:
    looked = f"Looked at any depth for files ending in {' '.join(sorted(SUFFIXES))}"
    if not others:
        return f"{location} holds no images: it is empty. {looked}."
    seen = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
    return f"{location} holds no images. {looked}; found {seen}."


def check_ids(ids: Sequence[str], where: Sequence[str]) -> None:
    """Refuse image ids that name two images; ``where`` says where each id stands."""
    first: dict[str, str] = {}
    for image_id, place in zip(ids, where, strict=True):
        if image_id in first:
            raise ImagesError(
                f"Image id {image_id!r} is used twice, in {first[image_id]} and {place}: ids name results, so each "
                "image needs its own. Remove one, or give an id column."
            )
        first[image_id] = place


def check_labels(labels: Sequence[Label | None] | None, count: int) -> Sequence[Label | None]:
    """Return one label for each image, None for all where no labels are given."""
    if labels is None:
        return [None] * count
    if len(labels) != count:
        raise ImagesError(f"There are {len(labels)} labels for {count} images: give one for each, None where unknown.")
    return labels
