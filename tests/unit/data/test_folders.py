from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from salience.data.source import open_images
from salience.errors import ImagesError, SettingsError

WriteImage = Callable[..., Path]


def test_folder_of_classes_takes_labels_from_the_first_level(class_folder: Path) -> None:
    source = open_images(class_folder)
    assert source.kind == "folder"
    assert source.location == str(class_folder)
    assert source.label_names == ("cat", "dog", "owl")
    assert [(r.image_id, r.label) for r in source.refs] == [
        ("cat/a.jpg", "cat"),
        ("cat/b.PNG", "cat"),
        ("cat/deep/er/c.jpg", "cat"),
        ("dog/a.jpg", "dog"),
        ("dog/b.jpg", "dog"),
        ("owl/a.webp", "owl"),
        ("owl/b.jpg", "owl"),
    ]
    assert [r.index for r in source.refs] == list(range(7))
    assert all(r.path is not None and Path(r.path).is_absolute() for r in source.refs)


def test_flat_folder_has_no_labels(tmp_path: Path, write_image: WriteImage) -> None:
    write_image(tmp_path / "b.png")
    write_image(tmp_path / "a.png")
    source = open_images(str(tmp_path))
    assert [r.image_id for r in source.refs] == ["a.png", "b.png"]
    assert [r.label for r in source.refs] == [None, None]
    assert source.label_names is None


def test_images_beside_class_folders_have_no_label(tmp_path: Path, write_image: WriteImage) -> None:
    write_image(tmp_path / "loose.png")
    write_image(tmp_path / "cat" / "a.png")
    assert {r.image_id: r.label for r in open_images(tmp_path).refs} == {"loose.png": None, "cat/a.png": "cat"}


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 7, 100])
def test_limit_takes_classes_in_turn_and_keeps_order_ids_and_names(class_folder: Path, limit: int) -> None:
    everything = open_images(class_folder)
    some = open_images(class_folder, limit=limit)
    ids = [r.image_id for r in everything.refs]
    kept = [r.image_id for r in some.refs]
    assert len(kept) == min(limit, 7)
    assert kept == [i for i in ids if i in kept]
    assert [r.index for r in some.refs] == list(range(len(kept)))
    assert len({r.label for r in some.refs}) == min(limit, 3)
    assert some.label_names == everything.label_names
    by_id = {r.image_id: r for r in everything.refs}
    assert all(r.label == by_id[r.image_id].label and r.path == by_id[r.image_id].path for r in some.refs)


def test_larger_limits_contain_smaller_ones(class_folder: Path) -> None:
    kept = [{r.image_id for r in open_images(class_folder, limit=n).refs} for n in range(1, 8)]
    assert all(a < b for a, b in pairwise(kept))


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one_is_refused(class_folder: Path, limit: int) -> None:
    with pytest.raises(SettingsError, match=f"limit is {limit}"):
        open_images(class_folder, limit=limit)


def test_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match=r"it is empty.*\.jpeg.*\.webp"):
        open_images(tmp_path)


def test_folder_of_other_files_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    (tmp_path / "b.HEIC").write_bytes(b"x")
    with pytest.raises(ImagesError, match=r"found 2 \.heic"):
        open_images(tmp_path)


def test_missing_path_suggests_its_siblings(class_folder: Path) -> None:
    with pytest.raises(ImagesError, match=r"does not exist. Did you mean 'photos'"):
        open_images(class_folder.parent / "photo")
    with pytest.raises(ImagesError, match=r"does not exist. Did you mean 'photos'"):
        open_images(class_folder.parent / "fotos" / "cat" / "a.jpg")
    with pytest.raises(ImagesError, match=r"holds photos\."):
        open_images(class_folder.parent / "zzz")


def test_names_that_are_no_text_are_refused(tmp_path: Path, write_image: WriteImage) -> None:
    write_image(tmp_path / "bär.png")
    assert [r.image_id for r in open_images(tmp_path).refs] == ["bär.png"]
    try:
        (tmp_path / os.fsdecode(b"b\xe4r.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(ImagesError, match=r"is not UTF-8: rename it"):
        open_images(tmp_path)


def test_links_to_folders_are_followed_once(tmp_path: Path, write_image: WriteImage) -> None:
    write_image(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "root")
    assert [r.image_id for r in open_images(tmp_path / "root").refs] == ["cat/a.png"]


def test_single_file_and_list_of_paths(class_folder: Path) -> None:
    one = open_images(class_folder / "cat" / "a.jpg")
    assert (one.kind, [r.image_id for r in one.refs]) == ("files", ["a.jpg"])
    paths = [class_folder / "cat" / "a.jpg", str(class_folder / "dog" / "a.jpg")]
    two = open_images(paths, labels=["cat", None])
    assert two.kind == "files"
    assert [r.image_id for r in two.refs] == [Path(p).as_posix() for p in paths]
    assert [r.label for r in two.refs] == ["cat", None]
    assert two.label_names == ("cat",)
    assert [r.image_id for r in open_images(paths, limit=1).refs] == [two.refs[0].image_id]


def test_the_same_path_twice_is_refused(class_folder: Path) -> None:
    path = class_folder / "cat" / "a.jpg"
    with pytest.raises(ImagesError, match=r"used twice, in item 0 and item 2"):
        open_images([path, class_folder / "dog" / "a.jpg", path])


def test_stamp_and_hash_follow_the_file(class_folder: Path, write_image: WriteImage) -> None:
    source = open_images(class_folder)
    ref = source.refs[0]
    stamp, content = source.stamp(ref), source.content_hash(ref)
    path = Path(ref.path or "")
    assert stamp == (path.stat().st_size, path.stat().st_mtime_ns)
    assert len(content) == 32
    assert source.read(ref).content_hash == content
    assert source.read(ref).data == path.read_bytes()
    os.utime(path, ns=(0, stamp[1] + 10**9))
    assert source.stamp(ref) != stamp
    assert source.content_hash(ref) == content
    write_image(path, seed=99)
    assert source.content_hash(ref) != content


def test_vanished_file_is_an_error_that_names_it(class_folder: Path) -> None:
    source = open_images(class_folder)
    (class_folder / "cat" / "a.jpg").unlink()
    for call in (source.stamp, source.read, source.content_hash):
        with pytest.raises(ImagesError, match=r"cat/a\.jpg: there is no such file"):
            call(source.refs[0])


def test_what_does_not_go_together_is_refused(class_folder: Path) -> None:
    with pytest.raises(ImagesError, match="arrays and lists"):
        open_images(class_folder, labels=[1])
    with pytest.raises(ImagesError, match="belong to a manifest"):
        open_images(class_folder, columns={"label": "x"})
    with pytest.raises(ImagesError, match="mixes paths with images"):
        open_images([class_folder / "cat" / "a.jpg", Image.new("RGB", (4, 4))])
    with pytest.raises(ImagesError, match="2 labels for 1 images"):
        open_images([class_folder / "cat" / "a.jpg"], labels=[1, 2])
    with pytest.raises(ImagesError, match="given as int"):
        open_images(7)
    with pytest.raises(ImagesError, match="empty"):
        open_images([])
    (class_folder / "model.pt").write_bytes(b"")
    with pytest.raises(ImagesError, match=r"is a \.pt: give a folder"):
        open_images(class_folder / "model.pt")


def test_sources_travel_to_other_processes(class_folder: Path) -> None:
    source = pickle.loads(pickle.dumps(open_images(class_folder)))
    assert source.read(source.refs[0]).content_hash == open_images(class_folder).content_hash(source.refs[0])


def test_this_room_does_without_torch() -> None:
    code = "import sys, salience.data.source, salience.data.decode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
