"""Files are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from salience.errors import RunError
from salience.store.files import read_json, whole_file, write_json, write_table


def only(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"é": 1})
    assert read_json(tmp_path / "deep" / "a.json") == {"é": 1}
    assert only(tmp_path / "deep") == ["a.json"]
    assert "é" in (tmp_path / "deep" / "a.json").read_text(encoding="utf-8")


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)

    def interrupted() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_json(path) == 1
    assert only(tmp_path) == ["a.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["fsync", "write", "replace"])
def test_a_full_disk(where: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    if where == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif where == "replace":
        monkeypatch.setattr(Path, "replace", full)

    def write() -> None:
        if where == "write":
            with whole_file(path):
                full()
        else:
            write_json(path, 2)

    with pytest.raises(RunError, match=r"No space is left for .*a\.json.*free some space and run the same command"):
        write()
    monkeypatch.undo()
    assert read_json(path) == 1
    assert only(tmp_path) == ["a.json"]


def test_a_full_disk_under_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow writes through our file object: the cause must come through it as well."""
    table = pa.table({"a": list(range(10))})
    write_table(tmp_path / "a.parquet", table)
    real = Path.open

    def opened(self: Path, *args: object, **kwargs: object):
        file = real(self, *args, **kwargs)

        class Full:
            closed = False

            def write(self, data: object) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

            def __getattr__(self, name: str) -> object:
                return getattr(file, name)

            def __enter__(self) -> Full:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

        return Full()

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(RunError, match="No space is left"):
        write_table(tmp_path / "a.parquet", pa.table({"a": [1]}))
    monkeypatch.undo()
    assert pq.read_table(tmp_path / "a.parquet").equals(table)
    assert only(tmp_path) == ["a.parquet"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Cannot write .*permissions"):
        write_json(tmp_path / "file" / "a.json", 1)


def test_a_broken_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RunError, match=r"a\.json cannot be read"):
        read_json(tmp_path / "a.json")
    with pytest.raises(RunError, match=r"b\.json cannot be read"):
        read_json(tmp_path / "b.json")


def test_tables_come_back(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", pa.table({"x": [1, None]}))
    assert json.loads(json.dumps(pq.read_table(tmp_path / "t.parquet").to_pydict())) == {"x": [1, None]}
