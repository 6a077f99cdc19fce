"""Runs on object stores: one writer, all or nothing, the bytes of a folder; in memory and on a server for S3."""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zarr

from s3_server import BUCKET, S3, serving
from salience.errors import RunError
from salience.explaining import RunSettings, answers_kept, explain_run
from salience.models.classifier import Classifier
from salience.store import bucket as buckets
from salience.store import claims, connections, objects, patience
from salience.store.bucket import Changed
from salience.store.claims import read_holder
from salience.store.files import read_json, write_json, write_table
from salience.store.maps import Maps
from salience.store.object_path import ObjectPath
from salience.store.place import place_of, storage
from salience.store.run import open_run
from salience.store.shards import MapArray
from salience.store.status import read_status
from salience.store.unit import Content, StageUnit
from salience.store.unit_writer import UnitWriter
from salience.store.writer import RunWriter
from salience.testing.contracts import example_images
from salience.testing.models import small_classifier

pytest.importorskip("obstore", reason="obstore is not installed (the extra 'object-stores' has it)")

SETTINGS = RunSettings(batch=4, memory_format="contiguous", unit_images=4, threads=1)
METHODS = ["gradient", "gradcam"]


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with serving() as found:
        yield found


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.mend()


@pytest.fixture
def on_s3(s3: S3) -> ObjectPath:
    """A folder of the server's bucket that nobody else uses."""
    return ObjectPath(f"s3://{BUCKET}", uuid.uuid4().hex)


@pytest.fixture
def in_memory() -> ObjectPath:
    """The same in memory."""
    return ObjectPath("memory://tests", uuid.uuid4().hex)


@pytest.fixture(params=["s3", "memory"])
def folder(request: pytest.FixtureRequest) -> ObjectPath:
    found: ObjectPath = request.getfixturevalue({"s3": "on_s3", "memory": "in_memory"}[request.param])
    return found


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return small_classifier()


@pytest.fixture(scope="module")
def images(classifier: Classifier) -> Any:
    return example_images(classifier, 10)


def opened(place: Any, source: str = "s") -> RunWriter:
    return RunWriter(place, kind="explain", source=source)


def unit(image_id: str = "a", content: str = "c") -> StageUnit:
    return StageUnit("test", "net", ("r",), [Content(image_id, content, 1, 1, 2, 2)], {})


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Call ``work`` in threads that begin together; return what came of it, or what was raised."""
    start, found = threading.Barrier(count), [None] * count

    def one(i: int) -> None:
        start.wait()
        try:
            found[i] = work(i)
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def elsewhere(folder: ObjectPath, **change: Any) -> None:
    """Make the claim on a run one of another machine."""
    found = read_holder(folder)
    assert found is not None
    write_json(folder / ".lock", {**json.loads(found[0].data()), "token": "7.x", "number": 7, "machine": "m", **change})


# ---------------------------------------------------------------------- places


def test_what_is_a_place() -> None:
    assert place_of("runs/a/") == Path("runs/a")
    assert place_of("file:///tmp/my%20run") == Path("/tmp/my run")
    assert place_of("s3://b/runs//a/") == ObjectPath("s3://b", "runs/a")
    assert str(place_of("GS://b/a")) == "gs://b/a"
    assert place_of(ObjectPath("s3://b", "a")) == ObjectPath("s3://b", "a")
    assert place_of("C:/windows") == Path("C:/windows")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ftp://host/run", "Runs cannot be on ftp://"),
        ("s4://host/run", r"Did you mean 's3'|s3://"),
        ("s3://bucket/", "names a bucket and no folder"),
        ("s3:///run", "names no bucket"),
        ("s3://bucket/a/../b", "has dots"),
        (Path("s3://bucket/run"), "given as text, s3://"),
    ],
)
def test_what_is_none(given: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        place_of(given)


def test_a_path_behaves_as_those_of_folders(folder: ObjectPath) -> None:
    write_json(folder / "a" / "000001.json", 1)
    write_json(folder / "a" / "x [y]+é.json", {"k": 2})
    assert [p.name for p in (folder / "a").glob("[0-9]*.json")] == ["000001.json"]
    assert sorted(p.name for p in folder.glob("*")) == ["a"]
    assert read_json(folder / "a" / "x [y]+é.json") == {"k": 2}
    path = folder / "a" / "000001.json"
    assert (path.stem, path.suffix, path.parent) == ("000001", ".json", folder / "a")
    assert path.exists()
    assert path.is_file()
    assert not path.is_dir()
    assert (folder / "a").exists()
    assert (folder / "a").is_dir()
    assert not (folder / "a").is_file()
    assert not (folder / "b").exists()
    assert (folder / "a" / ".." / "a" / "000001.json").resolve(strict=True) == path
    with pytest.raises(FileNotFoundError):
        (folder / "b").resolve(strict=True)
    assert path.is_relative_to(folder)
    assert not path.is_relative_to(folder / "b")
    assert not (folder.parent / f"{folder.name}x").is_relative_to(folder)
    assert pickle.loads(pickle.dumps(path)).read_text() == "1\n"
    path.unlink()
    path.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        path.unlink()
    with pytest.raises(RunError, match=r"000001\.json cannot be read"):
        read_json(path)


def test_the_package_that_speaks_to_stores_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(RunError, match=r"pip install 'salience\[object-stores\]'"):
        open_run("s3://never-opened/run")


def test_credentials_of_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert not connections._profile()
    (tmp_path / "file").write_text("[default]\naws_access_key_id = KEY\naws_secret_access_key = SECRET\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "file"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert connections._profile()
    pytest.importorskip("boto3")
    assert connections._of_profile()()["access_key_id"] == "KEY"
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", None)
    assert connections._of_profile() is None
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(RunError, match="pip install boto3"):
        connections._of_profile()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    assert not connections._profile()


def test_without_credentials_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9/169.254.169.254")  # nobody listens there
    begin = time.monotonic()
    with pytest.raises(RunError, match=r"may not be used: no credentials were found\. Check the credentials"):
        open_run("s3://bucket/run")
    with pytest.raises(RunError, match=r"az://container cannot be opened: .*docs/runs\.md names the variables"):
        open_run("az://container/run")
    assert time.monotonic() - begin < 60


# ---------------------------------------------------------------------- whole, once, in order


def test_of_many_that_create_one_does(folder: ObjectPath) -> None:
    bucket, key = folder.bucket, (folder / "record").key
    found = at_once(8, lambda i: bucket.create(key, str(i).encode()))
    lost = [f for f in found if isinstance(f, FileExistsError)]
    assert len(lost) == 7
    (winner,) = [i for i, f in enumerate(found) if not isinstance(f, Exception)]
    assert bucket.read(key) == str(winner).encode()


def test_of_many_that_update_one_does(folder: ObjectPath) -> None:
    bucket, key = folder.bucket, (folder / "run.json").key
    version = bucket.create(key, b"first")
    found = at_once(8, lambda i: bucket.update(key, str(i).encode(), version))
    assert sum(isinstance(f, Changed) for f in found) == 7


def test_an_object_that_another_process_changed_is_not_replaced(folder: ObjectPath) -> None:
    path = folder / "run.json"
    write_json(path, 1)
    write_json(path, 2)
    there = path.bucket.stat(path.key)
    assert there is not None
    path.bucket.update(path.key, b"3", there.version)  # as another process does
    with pytest.raises(RunError, match="was changed by another process"):
        write_json(path, 4)
    assert read_json(path) == 3


def test_an_error_while_writing_leaves_what_was_there(folder: ObjectPath) -> None:
    write_json(folder / "a.json", 1)

    def interrupted() -> None:
        with storage(folder).writing(folder / "a.json") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_json(folder / "a.json") == 1


def test_an_answer_that_was_lost_is_no_other_writer(s3: S3, on_s3: ObjectPath) -> None:
    """Put, answered with 500, put again: the store says that there is one, which is our own."""
    bucket = on_s3.bucket
    for status in (500, 503):
        key = (on_s3 / f"record{status}").key
        s3.fail(4, status=status, late=True, only=f"PUT /{BUCKET}/{key}")
        version = bucket.create(key, b"mine")
        s3.fail(4, status=status, late=True, only=f"PUT /{BUCKET}/{key}")
        assert bucket.update(key, b"again", version) != version
        assert bucket.read(key) == b"again"
    s3.mend()
    with pytest.raises(FileExistsError):
        bucket.create(key, b"again")


def test_a_conflict_in_which_nobody_won_is_tried_again(s3: S3, on_s3: ObjectPath) -> None:
    s3.fail(2, status=409, only=f"PUT /{BUCKET}/{on_s3.key}")
    on_s3.bucket.create((on_s3 / "record").key, b"mine")
    assert (on_s3 / "record").read_bytes() == b"mine"


def test_a_store_without_conditions_is_refused(s3: S3, on_s3: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_s3.bucket, "honest", False)
    s3.ignore_conditions()
    with pytest.raises(RunError, match="ignores the conditions If-None-Match and If-Match"), opened(on_s3):
        pass


# ---------------------------------------------------------------------- one writer


def test_of_many_writers_one_gets_the_run(folder: ObjectPath) -> None:
    leave = threading.Event()

    def hold(_: int) -> str:
        with opened(folder) as writer:
            assert leave.wait(30)
            writer.describe(status="complete")
            return writer.claim

    def free_the_holder() -> None:
        time.sleep(1.0)
        leave.set()

    threading.Thread(target=free_the_holder).start()
    found = at_once(4, hold)
    assert [str(f) for f in found if isinstance(f, Exception) and "Another process is writing" not in str(f)] == []
    assert sum(isinstance(f, str) for f in found) == 1


def test_a_claim_is_given_back_and_numbered(folder: ObjectPath) -> None:
    for number in (1, 2):
        with opened(folder) as writer:
            assert writer.claim.startswith(f"{number}.")
            assert storage(folder).held(folder)
            with pytest.raises(RunError, match=f"process {os.getpid()} on .*--take-over"), opened(folder):
                pass
            writer.describe(status="running")
        assert not storage(folder).held(folder)
    assert read_status(folder).state == "killed"


def test_a_refused_run_leaves_nothing(folder: ObjectPath) -> None:
    with opened(folder):
        pass
    assert not folder.exists()
    write_json(folder / "notes.json", "mine")
    with pytest.raises(RunError, match="not empty and holds no run"), opened(folder):
        pass
    with pytest.raises(RunError, match="is a file"), opened(folder / "notes.json"):
        pass
    assert [p.name for p in folder.glob("*")] == ["notes.json"]
    with opened(folder / "run") as writer:
        writer.describe(status="complete")
    with pytest.raises(RunError, match="other images"), opened(folder / "run", "t"):
        pass


def test_a_claim_is_renewed(folder: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RENEW_S", 0.02)
    with opened(folder):
        end = time.monotonic() + 20
        while time.monotonic() < end and (found := read_holder(folder)) is not None and found[0].renewed < 3:
            time.sleep(0.02)
        assert found is not None
        assert found[0].renewed >= 3


def test_a_claim_of_another_machine_ends_by_the_clock_of_the_store(
    s3: S3, on_s3: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(on_s3) as writer:
        writer.describe(status="running")
    elsewhere(on_s3, host="far")
    with pytest.raises(RunError, match=r"process \d+ on far, since 20.*is free 60 s after"), opened(on_s3):
        pass
    assert storage(on_s3).held(on_s3)
    monkeypatch.setattr(claims, "EXPIRY_S", 1.0)
    time.sleep(2.1)  # the store tells whole seconds
    assert not storage(on_s3).held(on_s3)
    with opened(on_s3) as writer:
        assert writer.claim.startswith("8.")
    assert [p.name for p in on_s3.glob(".*")] == [".lock"]


def test_a_claim_that_says_nothing_is_named(folder: ObjectPath) -> None:
    with opened(folder) as writer:
        writer.describe(status="running")
    for content in ("{", "[]", '{"token": 3}', '{"number": "x"}'):
        with storage(folder).writing(folder / ".lock") as file:
            file.write(content.encode())
        with pytest.raises(RunError, match=r"\.lock does not say who writes the run"), opened(folder):
            pass


def test_a_writer_that_was_taken_over_replaces_nothing(folder: ObjectPath) -> None:
    """As a laptop that was asleep in the middle of a unit: every one of its writes comes too late."""
    with opened(folder) as late:
        late.describe(status="running")
        late.commit_stage(unit("a"))
        storage(folder).free(folder)
        with opened(folder) as writer:
            writer.commit_stage(unit("b", "new"))
            writer.describe(status="complete")
        for act in (lambda: late.commit_stage(unit("b", "old")), lambda: late.describe(status="failed")):
            late._held._lost = False  # it has not noticed yet
            with pytest.raises(RunError, match=r"Another command|another process"):
                act()
        late._held._lost = False
        with pytest.raises(RunError, match="was changed by another process"):
            write_table(late.folder / "tables" / "contents" / "000001.parquet", pa.table({"x": [1]}))
        with pytest.raises(RunError, match="Another command has written"):
            storage(folder).record(late.folder / "units" / "000001.json", b"{}")
        storage(folder).discard([late.folder / "units" / "000001.json"])
        late._held._renew()
        with pytest.raises(RunError, match="Another command writes"):
            late.commit_stage(unit("c"))
    run = open_run(folder)
    assert run.units() == [0, 1]
    assert run.parts("contents")["content_hash"].to_pylist() == ["c", "new"]
    assert run.info["status"] == "complete"
    with opened(folder) as writer:
        assert writer.claim.startswith("3.")


def test_workers_write_in_the_name_of_the_claim(folder: ObjectPath) -> None:
    with opened(folder) as writer:
        writer.describe(status="running")
        first = writer.reserve(2)
        place = pickle.loads(pickle.dumps(writer.folder.resolve()))
        worker = UnitWriter(place, writer.info, writer.claim)
        worker.write_stage(first, unit("a"))
        worker.write_stage(first, unit("a"))  # it died before it could tell: another does the same unit again
        storage(folder).free(folder)
        with pytest.raises(RunError, match=r"Another command writes .* this worker ends"):
            worker.write_stage(first + 1, unit("b"))
    assert open_run(folder).units() == [0]


def test_a_unit_of_a_killed_writer_does_not_count_and_is_replaced(folder: ObjectPath) -> None:
    with opened(folder) as writer:
        writer.describe(status="running")
        write_table(writer.folder / "tables" / "failures" / "000000.parquet", pa.table({"x": [1]}))
        write_table(writer.folder / "tables" / "contents" / "000000.parquet", pa.table({"x": [1]}))
    assert open_run(folder).units() == []
    with opened(folder) as writer:
        writer.commit_stage(unit("a"))
    run = open_run(folder)
    assert run.parts("contents")["image_id"].to_pylist() == ["a"]
    assert run.part("failures", 0) is None


# ---------------------------------------------------------------------- maps and tables


def files_of(place: Any) -> dict[str, bytes]:
    if isinstance(place, Path):
        found = {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    else:
        start = len(place.key) + 1
        found = {e.key[start:]: place.bucket.read(e.key) for e in place.bucket.entries(place.key)}
    return {k: v for k, v in found.items() if k.startswith(("maps/", "tables/", "images"))}


def test_the_bytes_are_those_of_a_folder(
    folder: ObjectPath, classifier: Classifier, images: Any, tmp_path: Path
) -> None:
    outcome = explain_run([classifier], images, METHODS, folder, settings=SETTINGS)
    local = explain_run([classifier], images, METHODS, tmp_path / "run", settings=SETTINGS)
    assert files_of(folder) == files_of(tmp_path / "run")
    a, b = outcome.run, local.run
    assert (repr(a).partition(":")[2] != "", a.folder) == (True, folder)
    for method in METHODS:
        x: Maps = a.maps(method)
        assert x.values.tobytes() == b.maps(method).values.tobytes()
    some = ["000002", "000007"]
    assert a.maps("gradient", images=some).values.tobytes() == b.maps("gradient", images=some).values.tobytes()
    mine, its = read_status(str(folder)), read_status(tmp_path / "run")
    times = {name: getattr(mine, name) for name in ("folder", "size", "seconds", "created", "updated")}
    assert mine == replace(its, **times)
    assert mine.to_dict()["folder"] == str(folder)
    again = explain_run([classifier], images, METHODS, str(folder), settings=SETTINGS)
    assert again.summaries["small"].reused == 10


def test_one_map_is_read_without_its_shard(
    s3: S3, on_s3: ObjectPath, classifier: Classifier, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = explain_run([classifier], images, ["gradient"], on_s3, settings=SETTINGS).run
    recipe, _ = run.recipe("gradient")
    array, whole = MapArray(run.folder / "maps" / recipe), run.maps("gradient")
    row = int(run.table("maps")["row"][5].as_py())
    monkeypatch.setattr(buckets.Bucket, "read", None)
    monkeypatch.setattr(buckets.Bucket, "fetch", None)
    s3.requests()
    found = array.read(np.array([row]))[0]
    assert s3.requests() == 2  # the index at the end of the shard, and the map
    array.read(np.array([row - 1]))
    assert s3.requests() == 1  # the index is known
    scale = whole.values[5].max() / found.max()
    np.testing.assert_allclose(found * scale, whole.values[5], rtol=1e-6)


def test_tables_are_listed_once_and_read_once(s3: S3, on_s3: ObjectPath, classifier: Classifier, images: Any) -> None:
    run = explain_run([classifier], images, ["gradient"], on_s3, settings=SETTINGS).run
    run.parts("predictions")
    s3.requests()
    again = run.parts("predictions")
    assert len(again) == 10
    assert s3.requests() == 2  # the units and the table's files are listed; what is known is not asked for


def test_columns_of_large_tables_are_read_in_ranges(folder: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(folder) as writer:
        writer.describe(status="running")
        writer.commit_stage(unit("a"))
    run = open_run(folder)
    expected = run.parts("contents", ("image_id", "content_hash"))
    monkeypatch.setattr(objects, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(buckets.Bucket, "read_entry", None)
    assert run.parts("contents", ("image_id", "content_hash")).equals(expected)
    part = run.part("contents", 0, ("image_id",))
    assert part is not None
    assert part["image_id"].to_pylist() == ["a"]


def test_the_zarr_library_reads_the_maps_from_their_url(
    s3: S3, on_s3: ObjectPath, classifier: Classifier, images: Any
) -> None:
    from obstore.store import from_url

    run = explain_run([classifier], images, ["gradcam"], on_s3, settings=SETTINGS).run
    recipe, _ = run.recipe("gradcam")
    store = zarr.storage.ObjectStore(
        from_url(f"{on_s3}/maps/{recipe}", client_options={"allow_http": True}), read_only=True
    )
    array = zarr.open_array(store, mode="r")
    rows = run.table("maps").to_pylist()
    values = np.stack([np.asarray(array[r["row"]], np.float32) * np.float32(r["scale"]) for r in rows])
    np.testing.assert_array_equal(values, run.maps("gradcam").values)


def test_a_damaged_shard_is_named(folder: ObjectPath, classifier: Classifier, images: Any) -> None:
    run = explain_run([classifier], images, ["gradient"], folder, settings=SETTINGS).run
    recipe, _ = run.recipe("gradient")
    shard = folder / "maps" / recipe / "c" / "1" / "0" / "0"
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    with pytest.raises(RunError, match="was changed by another process"), storage(shard).writing(shard) as file:
        file.write(raw)  # nobody replaces results without the run's claim
    shard.unlink()
    with storage(shard).writing(shard) as file:
        file.write(raw)
    with pytest.raises(RunError, match=r"c/1/0/0 are damaged.*units/000001\.json"):
        run.maps()
    shard.unlink()
    with pytest.raises(RunError, match=r"c/1/0/0 cannot be read.*units/000001\.json"):
        run.maps()


def test_paid_answers_need_a_folder(in_memory: ObjectPath) -> None:
    paid: Any = SimpleNamespace(name="api", account=object(), paid=True)
    with (
        pytest.raises(RunError, match=r"paid model 'api'.*is on an object store. Give a folder as --out"),
        opened(in_memory) as writer,
        answers_kept([paid], writer),
    ):
        pass


# ---------------------------------------------------------------------- a store that fails


def test_a_store_that_stays_away_is_named_and_loses_nothing(
    s3: S3, on_s3: ObjectPath, classifier: Classifier, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain_run([classifier], images, METHODS, on_s3, settings=SETTINGS, limit=4)
    monkeypatch.setattr(patience, "PATIENCE_S", 1.0)
    s3.fail(10_000, status=503, only="maps/")
    with pytest.raises(RunError, match=r"s3://bucket/.*maps/.* cannot be reached: .*run the same command again"):
        explain_run([classifier], images, METHODS, on_s3, settings=SETTINGS)
    s3.fail(10_000, status=503)
    begin = time.monotonic()
    for seconds in (1.0, 100.0, 100.0):  # who has waited in vain once does not wait again
        monkeypatch.setattr(patience, "PATIENCE_S", seconds)
        with pytest.raises(RunError, match="cannot be reached"):
            open_run(on_s3)
    assert time.monotonic() - begin < 60
    s3.mend()
    assert len(open_run(on_s3).units()) == 1
    assert open_run(on_s3).info["status"] == "failed"
    explain_run([classifier], images, METHODS, on_s3, settings=SETTINGS)
    explain_run([classifier], images, METHODS, tmp_path / "run", settings=SETTINGS, limit=4)
    explain_run([classifier], images, METHODS, tmp_path / "run", settings=SETTINGS)
    assert files_of(on_s3) == files_of(tmp_path / "run")


def test_a_slow_store_is_waited_for(
    s3: S3, on_s3: ObjectPath, classifier: Classifier, images: Any, tmp_path: Path
) -> None:
    s3.fail(30, status=0, delay=0.05)
    explain_run([classifier], images, METHODS, on_s3, settings=SETTINGS)
    explain_run([classifier], images, METHODS, tmp_path / "run", settings=SETTINGS)
    assert files_of(on_s3) == files_of(tmp_path / "run")


def test_what_asking_again_does_not_change_is_said_at_once(s3: S3, on_s3: ObjectPath) -> None:
    begin = time.monotonic()
    with pytest.raises(RunError, match="there is no bucket s3://nowhere"), opened("s3://nowhere/run"):
        pass
    s3.fail(4, status=403, only=on_s3.key)
    with pytest.raises(RunError, match=r"may not be used.*Check the credentials"):
        (on_s3 / "x").read_bytes()
    s3.fail(4, status=501, only=on_s3.key)
    with pytest.raises(RunError, match="cannot be reached"):
        (on_s3 / "x").read_bytes()
    assert time.monotonic() - begin < 60
