from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from salience.data.labels import resolve_labels
from salience.data.source import open_images
from salience.errors import ImagesError


def write_csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_all_columns(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "list.csv",
        "id,file,label,name,group,boxes_227,other",
        'one,a/1.jpg,3,owl,g1,"[[1, 2, 3.5, 4]]",x',
        'two,a/2.jpg,,,,,"a, b"',
        'three,a/3.jpg,5,"cat, tabby",,"[[0,0,1,1],[2,2,5,5]]",',
    )
    source = open_images(path)
    assert source.kind == "manifest"
    assert [r.image_id for r in source.refs] == ["one", "two", "three"]
    assert [r.label for r in source.refs] == [3, None, 5]
    assert [r.path for r in source.refs] == [str(tmp_path / "a" / f"{n}.jpg") for n in (1, 2, 3)]
    assert source.refs[0].boxes == ((1.0, 2.0, 3.5, 4.0),)
    assert source.refs[1].boxes == ()
    assert len(source.refs[2].boxes) == 2
    assert [r.group for r in source.refs] == ["g1", None, None]
    assert source.label_names is None
    assert source.titles == {3: "owl", 5: "cat, tabby"}


@pytest.mark.parametrize("name", ["labels.csv", "metadata.csv", "manifest.csv", "labels.parquet"])
def test_a_manifest_in_the_folder_is_used(tmp_path: Path, name: str) -> None:
    if name.endswith("csv"):
        write_csv(tmp_path / name, "file_name,label", "x.jpg,1")
    else:
        pq.write_table(pa.table({"file_name": ["x.jpg"], "label": [1]}), tmp_path / name)
    source = open_images(tmp_path)
    assert (source.kind, source.location) == ("manifest", str(tmp_path))
    assert [(r.image_id, r.label) for r in source.refs] == [("x.jpg", 1)]


def test_two_manifests_in_a_folder_are_ambiguous(tmp_path: Path) -> None:
    write_csv(tmp_path / "labels.csv", "file,label", "x.jpg,1")
    write_csv(tmp_path / "metadata.csv", "file,label", "x.jpg,2")
    with pytest.raises(ImagesError, match=r"several manifests \(labels.csv, metadata.csv\)"):
        open_images(tmp_path)
    assert open_images(tmp_path / "metadata.csv").refs[0].label == 2


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("column", ["file", "file_name", "filename", "path", "image", "File"])
@pytest.mark.parametrize("label", ["label", "class", "target", "y"])
def test_recognised_names_and_separators(tmp_path: Path, column: str, separator: str, label: str) -> None:
    path = write_csv(tmp_path / "m.csv", separator.join(["x", column, label]), separator.join(["0", "a.jpg", "owl"]))
    source = open_images(path)
    assert [(r.image_id, r.label) for r in source.refs] == [("a.jpg", "owl")]
    assert source.label_names == ("owl",)


def test_names_alone_are_the_labels(tmp_path: Path) -> None:
    source = open_images(write_csv(tmp_path / "m.csv", "file,name", "a.jpg,7", "b.jpg,seven"))
    assert [r.label for r in source.refs] == ["7", "seven"]
    assert source.titles == {}


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "m.csv", "file,label,wnid,name", "a.jpg,1,n001,owl", "b.jpg,2,n002,cat")
    source = open_images(path, columns={"label": "wnid"})
    assert [r.label for r in source.refs] == ["n001", "n002"]
    assert source.label_names == ("n001", "n002")
    assert source.titles == {"n001": "owl", "n002": "cat"}
    assert [r.label for r in open_images(path, columns={"name": "label", "label": "name"}).refs] == ["owl", "cat"]


def test_wrong_mappings_are_explained(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "m.csv", "file,wnid", "a.jpg,n001")
    with pytest.raises(ImagesError, match=r"no column 'wnids', to be used as label.*file, wnid.*mean 'wnid'"):
        open_images(path, columns={"label": "wnids"})
    with pytest.raises(ImagesError, match=r"no 'lable'.*mean 'label'"):
        open_images(path, columns={"lable": "wnid"})


def test_missing_file_column_is_explained(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "labels.csv", "wnid,label", "n001,1")
    with pytest.raises(ImagesError, match=r"labels\.csv has no column of file names.*wnid, label.*file=NAME"):
        open_images(tmp_path)
    with pytest.raises(ImagesError, match="two columns named 'file'"):
        open_images(write_csv(path, "file,file", "a.jpg,b.jpg"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a.jpg,1", "b.jpg,2.5"], r"row 3, column 'label' is '2.5', but .*row 2, column 'label' is '1'"),
        (["a.jpg,1", ",2"], r"row 3, column 'file' is empty"),
        (["a.jpg,1", "", "b.jpg,1", "a.jpg,2"], r"'a.jpg' is used twice, in row 2 of m.csv and row 5 of m.csv"),
        (["a.jpg,1", "b.jpg,owl"], r"row 3, column 'label' is 'owl', but .*row 2, column 'label' is '1'"),
        (["a.jpg,owl", "b.jpg,1"], r"row 3, column 'label' is '1', but .*row 2, column 'label' is 'owl'"),
        (["a.jpg,1,2"], r"row 2: 3 cells where the header has 2"),
        ([], "no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(ImagesError, match=message):
        open_images(write_csv(tmp_path / "m.csv", "file,label", *rows))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("[[1, 2, 3", "row 2, column 'boxes' is no valid JSON"),
        ("7", "a list of"),
        ("[1, 2, 3, 4]", "a list of"),
        ("[[1, 2, 3]]", "a list of"),
        ("[[5, 2, 3, 4]]", "x0 < x1"),
        ('[[1, 2, 3, ""4""]]', "a list of"),
        ("[[1, 2, 3, NaN]]", "a list of"),
        ('{""a"": 1}', "a list of"),
    ],
)
def test_bad_boxes_are_named(tmp_path: Path, cell: str, message: str) -> None:
    with pytest.raises(ImagesError, match=message):
        open_images(write_csv(tmp_path / "m.csv", "file,boxes", f'a.jpg,"{cell}"'))


def test_several_columns_of_boxes_are_ambiguous(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "m.csv", "file,boxes_224,boxes_500", 'a.jpg,"[[0,0,1,1]]","[[0,0,2,2]]"')
    with pytest.raises(ImagesError, match="several columns of boxes"):
        open_images(path)
    assert open_images(path, columns={"boxes": "boxes_500"}).refs[0].boxes == ((0.0, 0.0, 2.0, 2.0),)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00file", b'file,label\n"a.jpg,1\n', b"file,label\nb\xe4r.jpg,1\n"])
def test_broken_csv(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.csv").write_bytes(data)
    with pytest.raises(ImagesError, match=r"m\.csv"):
        open_images(tmp_path / "m.csv")


def test_byte_order_mark_and_quoted_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes('\ufefffile,name\r\na.jpg,"tabby\r\ncat"\r\nbär.jpg,owl\r\n'.encode())
    assert [(r.image_id, r.label) for r in open_images(tmp_path / "m.csv").refs] == [
        ("a.jpg", "tabby\r\ncat"),
        ("bär.jpg", "owl"),
    ]


def test_missing_files_are_no_error_until_they_are_read(tmp_path: Path) -> None:
    source = open_images(write_csv(tmp_path / "m.csv", "file", "gone.jpg"))
    with pytest.raises(ImagesError, match=r"gone\.jpg: there is no such file"):
        source.read(source.refs[0])


def test_limit_takes_the_first_rows_but_counts_all_names(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "m.csv", "file,label", "a.jpg,cat", "b.jpg,cat", "c.jpg,dog")
    source = open_images(path, limit=2)
    assert [r.image_id for r in source.refs] == ["a.jpg", "b.jpg"]
    assert source.label_names == ("cat", "dog")


@pytest.mark.parametrize("boxes", [[[[1.0, 2.0, 3.0, 4.0]], None], ["[[1, 2, 3, 4]]", ""]])
@pytest.mark.parametrize("labels", [[3, None], [3.0, float("nan")]])
def test_parquet(tmp_path: Path, boxes: list[Any], labels: list[Any]) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "y": labels, "boxes": boxes, "group": [1, 2]}), path)
    source = open_images(path)
    assert [r.label for r in source.refs] == [3, None]
    assert [r.boxes for r in source.refs] == [((1.0, 2.0, 3.0, 4.0),), ()]
    assert [r.group for r in source.refs] == ["1", "2"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"file": ["a.jpg", "b.jpg"], "label": [1.0, 2.5]}, r"row 2, column 'label' is 2\.5"),
        ({"file": ["a.jpg"], "label": [True]}, r"row 1, column 'label' is True"),
        ({"file": ["a.jpg"], "label": [[1]]}, r"row 1, column 'label' is \[1\]"),
        ({"image": [b"bytes"]}, r"row 1, column 'image' is bytes: text is needed"),
        ({"image": [{"path": "a.jpg"}]}, r"row 1, column 'image' is dict: text is needed"),
    ],
)
def test_bad_parquet_cells_are_named(tmp_path: Path, table: dict[str, list[Any]], message: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    with pytest.raises(ImagesError, match=message):
        open_images(tmp_path / "m.parquet")


def test_broken_parquet(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ImagesError, match=r"m\.parquet cannot be read as Parquet"):
        open_images(tmp_path / "m.parquet")


@pytest.mark.parametrize("given", ["imagenet_val_450", "imagenet_val_450/labels.csv"])
def test_real_manifest_works_as_it_is(assets: Path, given: str) -> None:
    source = open_images(assets / "images" / given)
    assert len(source) == 450
    assert all(isinstance(r.label, int) and r.boxes and r.path and Path(r.path).is_file() for r in source.refs)
    assert (source.refs[0].image_id, source.refs[0].label) == ("data/ILSVRC2012_val_00000580.JPEG", 480)
    names = json.loads((assets / "images" / "imagenet_classes.json").read_text())
    labels = resolve_labels(source.refs, source.label_names, names, 1000, titles=source.titles)
    assert labels.values == [r.label for r in source.refs]
    assert labels.note == ""


def test_real_synset_ids_are_found_by_their_names_or_not_at_all(assets: Path) -> None:
    truth = open_images(assets / "images" / "imagenet_val_450")
    source = open_images(assets / "images" / "imagenet_val_450", columns={"label": "wnid"})
    names = json.loads((assets / "images" / "imagenet_classes.json").read_text())
    labels = resolve_labels(source.refs, source.label_names, names, 1000, titles=source.titles)
    found = [(a, b.label) for a, b in zip(labels.values, truth.refs, strict=True) if a is not None]
    assert len(found) > 430
    assert all(a == b for a, b in found)
    assert "no class of this model or mean several" in labels.note
