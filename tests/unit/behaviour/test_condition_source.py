"""Images under conditions as a source: names, hashes, what is decoded how often, and what the engine makes of it."""

from __future__ import annotations

import pickle
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import salience
from salience.behaviour.conditions.condition import Condition
from salience.behaviour.conditions.corruptions import Blur, Brightness, Contrast, GaussianNoise, Jpeg
from salience.behaviour.conditions.geometry import Flip, Turn
from salience.behaviour.conditions.guided import Degradation
from salience.behaviour.conditions.noise import SaltPepper
from salience.behaviour.conditions.registry import conditions
from salience.behaviour.source import ConditionSource, _Held, contents_of, under_conditions
from salience.data.base import ImageSource
from salience.data.decode import load
from salience.data.preprocessing import Preprocessing
from salience.data.source import open_images
from salience.errors import ImagesError, SettingsError
from salience.explaining import RunSettings, explain_run
from salience.testing.models import small_classifier

SIZE = (32, 32)
PREPROCESSING = Preprocessing(SIZE)
CHOSEN: tuple[Condition, ...] = (SaltPepper(0.1), Jpeg(1), Blur(2), Flip("lr"), GaussianNoise(3))
FAST = RunSettings(batch=4, memory_format="contiguous", threads=1)


class Maps:
    """Clean maps that are made up."""

    identity = "made up"

    def of(self, image_ids: list[str]) -> np.ndarray:
        return np.stack([np.random.default_rng(len(i)).random((4, 4), dtype=np.float32) for i in image_ids])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("ant/0.png", "ant/1.png", "bee/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def changed(
    source: ImageSource, chosen: tuple[Condition, ...] = CHOSEN, *, seed: int = 0, clean: Maps | None = None
) -> ConditionSource:
    return under_conditions(source, source.refs, chosen, PREPROCESSING, seed=seed, clean=clean)


def pixels_of(source: ConditionSource) -> dict[str, np.ndarray]:
    """What the engine would give a model: one image at a time."""
    found = {}
    for ref in source.refs:
        loaded = load(source, ref, PREPROCESSING).pixels
        pixels = torch.from_numpy(loaded).permute(2, 0, 1)[None]
        pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels
        found[ref.image_id] = source.finish([ref], pixels)[0].numpy()
    return found


# ---------------------------------------------------------------------- names and order


def test_every_image_under_every_condition(folder: Path) -> None:
    source = changed(open_images(folder))
    ids = [ref.image_id for ref in source.refs]
    assert len(source) == len(set(ids)) == 15
    assert ids[:6] == [
        *("ant/0.png@salt-pepper-0.1", "ant/0.png@jpeg-1", "ant/1.png@salt-pepper-0.1"),
        *("ant/1.png@jpeg-1", "bee/0.png@salt-pepper-0.1", "bee/0.png@jpeg-1"),
    ]
    assert ids[6:9] == ["ant/0.png@blur-2", "ant/1.png@blur-2", "bee/0.png@blur-2"]
    assert [ref.index for ref in source.refs] == list(range(15))
    assert {ref.label for ref in source.refs if ref.image_id.startswith("bee")} == {"bee"}
    assert source.label_names == ("ant", "bee")


def test_many_images_stand_together_as_far_as_they_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salience.behaviour.source._FITTED_BYTES", 3 * 32 * 32 * 2)  # two images
    source = changed(open_images(np.zeros((3, 32, 32, 3), dtype=np.uint8)), (Blur(1), Flip("lr")))
    assert [ref.image_id for ref in source.refs] == [
        *("000000@blur-1", "000001@blur-1", "000000@flip-lr", "000001@flip-lr"),
        *("000002@blur-1", "000002@flip-lr"),
    ]


def test_some_of_the_references(folder: Path) -> None:
    source = changed(open_images(folder))
    some = source.only(["bee/0.png@jpeg-1", "ant/1.png@blur-2"])
    assert [ref.image_id for ref in some.refs] == ["bee/0.png@jpeg-1", "ant/1.png@blur-2"]
    assert [some.content_hash(ref) for ref in some.refs] == [source.content_hash(ref) for ref in some.refs]


def test_what_does_not_fit_is_refused() -> None:
    source = open_images(np.zeros((1, 32, 48, 3), dtype=np.uint8))
    with pytest.raises(SettingsError, match=r"rotate\+90.*32x48"):
        under_conditions(source, source.refs, [Turn(1)], Preprocessing((32, 48)))
    with pytest.raises(SettingsError, match="led by maps"):
        changed(source, (Degradation("object"),))


# ---------------------------------------------------------------------- hashes


def test_a_hash_names_image_condition_seed_and_the_maps_that_lead(folder: Path) -> None:
    chosen = (*CHOSEN, Degradation("object"))
    source = changed(open_images(folder), chosen, clean=Maps())
    hashes = {ref.image_id: source.content_hash(ref) for ref in source.refs}
    assert len(set(hashes.values())) == len(hashes) == 18
    again = changed(open_images(folder), chosen, clean=Maps())
    assert {ref.image_id: again.content_hash(ref) for ref in again.refs} == hashes
    reseeded = changed(open_images(folder), chosen, seed=1, clean=Maps())
    other = {ref.image_id: reseeded.content_hash(ref) for ref in reseeded.refs}
    assert {i.partition("@")[2] for i in hashes if hashes[i] != other[i]} == {"salt-pepper-0.1", "gaussian-noise-3"}
    led = Maps()
    led.identity = "others"
    elsewhere = changed(open_images(folder), chosen, clean=led)
    others = {ref.image_id: elsewhere.content_hash(ref) for ref in elsewhere.refs}
    assert {i.partition("@")[2] for i in hashes if hashes[i] != others[i]} == {"object"}
    loaded = load(source, source.refs[0], PREPROCESSING)
    assert loaded.content_hash == hashes[source.refs[0].image_id]


def test_a_file_that_changes_is_noticed_and_others_are_not_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = open_images(folder)
    source = changed(base)
    ref = source.refs[0]
    before = (source.content_hash(ref), *source.stamp(ref))
    known = contents_of(
        [
            dict(zip(("content_hash", "bytes", "mtime_ns"), (base.content_hash(r), *base.stamp(r)), strict=True))
            | {"image_id": r.image_id}
            for r in base.refs
        ]
    )
    read = []
    monkeypatch.setattr(type(base), "read", lambda self, ref: read.append(ref.image_id))
    told = under_conditions(base, base.refs, CHOSEN, PREPROCESSING, known=known)
    assert told.hash_since(told.refs[0], before) == before[0]
    assert told.hash_since(told.refs[0], None) is None
    assert read == []
    monkeypatch.undo()
    Image.new("RGB", (40, 50), "red").save(folder / "ant/0.png")
    assert source.hash_since(ref, before) not in (None, before[0])
    (folder / "ant/0.png").unlink()
    assert source.hash_since(ref, before) is None


# ---------------------------------------------------------------------- pixels


def test_pixels_are_those_of_the_conditions(folder: Path) -> None:
    base = open_images(folder)
    found = pixels_of(changed(base))
    ref = base.refs[1]
    fitted = load(base, ref, PREPROCESSING).pixels
    clean = torch.from_numpy(fitted).permute(2, 0, 1)[None] / 255
    whole = np.array(Image.open(folder / "ant/1.png"))
    noisy = open_images(SaltPepper(0.1).read(whole, ref.image_id, 0)[None])
    expected = {
        "salt-pepper-0.1": torch.from_numpy(load(noisy, noisy.refs[0], PREPROCESSING).pixels).permute(2, 0, 1) / 255,
        "jpeg-1": torch.from_numpy(Jpeg(1).read(fitted, ref.image_id, 0)).permute(2, 0, 1) / 255,
        "blur-2": Blur(2).change(clean, [ref.image_id], 0)[0],
        "flip-lr": clean[0].flip(-1),
        "gaussian-noise-3": GaussianNoise(3).change(clean, [ref.image_id], 0)[0],
    }
    for name, wanted in expected.items():
        np.testing.assert_array_equal(found[f"ant/1.png@{name}"], wanted.numpy(), err_msg=name)


def test_a_batch_of_several_conditions_is_changed_as_its_images_are(folder: Path) -> None:
    chosen = tuple(c for c in conditions().values() if c.fits(SIZE))
    source = changed(open_images(folder), chosen, clean=Maps())
    alone = pixels_of(source)
    refs = [source.refs[i] for i in np.random.default_rng(0).permutation(len(source))]
    for at in range(0, len(refs), 16):
        some = refs[at : at + 16]
        loaded = [load(source, ref, PREPROCESSING).pixels for ref in some]
        assert {p.dtype for p in loaded} == {np.dtype(np.uint8)}
        batch = torch.from_numpy(np.stack(loaded)).permute(0, 3, 1, 2) / 255
        before = batch.clone()
        for row, ref in zip(source.finish(some, batch), some, strict=True):
            np.testing.assert_array_equal(row.numpy(), alone[ref.image_id], err_msg=ref.image_id)
        assert torch.equal(batch, before)


def test_half_precision_is_changed_in_single(folder: Path) -> None:
    source = changed(open_images(folder), (Blur(2), Brightness(1)))
    pixels = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)).half()
    made = source.finish([source.refs[0], source.refs[3]], pixels)
    assert made.dtype == torch.float16
    assert torch.equal(made[0], Blur(2).change(pixels[:1].float(), ["a"], 0)[0].half())


def test_an_image_is_decoded_once_for_all_its_conditions(folder: Path) -> None:
    base = open_images(folder)
    times: Counter[str] = Counter()
    plain = type(base).read

    def read(self: ImageSource, ref: salience.data.base.ImageRef) -> object:
        times[ref.image_id] += 1
        return plain(self, ref)

    type(base).read = read  # type: ignore[method-assign]
    try:
        source = changed(base, (*CHOSEN, SaltPepper(0.5), Contrast(1), Jpeg(5)))
        for ref in source.refs:
            source.content_hash(ref)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(source.read, source.refs))
    finally:
        type(base).read = plain  # type: ignore[method-assign]
    assert set(times.values()) == {3}  # to name it, at its own size, and at the model's


def test_an_image_that_breaks_fails_for_every_condition_and_can_be_mended(folder: Path) -> None:
    source = changed(open_images(folder))
    (folder / "ant/0.png").write_bytes(b"no image")
    for ref in source.refs:
        if ref.image_id.startswith("ant/0"):
            with pytest.raises(ImagesError, match=r"0\.png"):
                source.read(ref)
    Image.new("RGB", (40, 50), "red").save(folder / "ant/0.png")
    assert source.read(source.refs[0]).data is not None


def test_images_that_are_floats() -> None:
    x = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    source = changed(open_images(x))
    source.check(PREPROCESSING)
    assert all(p.dtype == np.float32 for p in (load(source, ref, PREPROCESSING).pixels for ref in source.refs))
    found = pixels_of(source)
    np.testing.assert_array_equal(found["000001@flip-lr"], x[1].flip(-1).numpy())
    with pytest.raises(ImagesError, match="16x16"):
        source.check(Preprocessing((16, 16)))


def test_a_source_goes_to_another_process(folder: Path) -> None:
    source = changed(open_images(folder), (*CHOSEN, Degradation("background")), clean=Maps())
    source.read(source.refs[0])
    again = pickle.loads(pickle.dumps(source))
    assert [again.content_hash(r) for r in again.refs] == [source.content_hash(r) for r in source.refs]
    np.testing.assert_array_equal(again.read(again.refs[0]).data, source.read(source.refs[0]).data)


# ---------------------------------------------------------------------- what is held


def test_what_is_held_is_limited() -> None:
    held = _Held(2500)
    made: list[int] = []

    def make(key: int) -> np.ndarray:
        made.append(key)
        return np.zeros(1000, dtype=np.uint8)

    for key in (0, 1, 0, 2, 0, 1):  # 2 drives out 1, the longest unused; then 1 drives out 2
        held.get(key, lambda key=key: make(key))
    assert made == [0, 1, 2, 1]


def test_threads_that_ask_for_one_image_wait_for_the_first() -> None:
    held = _Held(10_000)
    made = []
    gate = threading.Event()

    def make() -> np.ndarray:
        gate.wait(5)
        made.append(1)
        return np.zeros(10, dtype=np.uint8)

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(held.get, 7, make) for _ in range(4)]
        time.sleep(0.05)
        gate.set()
        results = [task.result() for task in tasks]
    assert made == [1]
    assert all(r is results[0] for r in results)


# ---------------------------------------------------------------------- in the engine


@pytest.mark.parametrize("batch", [1, 8])
def test_the_engine_explains_the_changed_images(tmp_path: Path, batch: int, one_thread: None) -> None:
    """The maps under conditions are those of arrays that hold the changed pixels, of the class that is given."""
    images = np.random.default_rng(1).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    base = open_images(images)
    classifier = small_classifier(size=32)
    chosen = tuple(c for c in conditions().values() if c.name in ("jpeg-3", "rotate+15", "contrast-2", "background"))
    source = changed(base, chosen, clean=Maps())
    given = {ref.image_id: i % 5 for i, ref in enumerate(source.refs)}
    how = RunSettings(batch=batch, memory_format="contiguous", threads=1)
    outcome = explain_run([classifier], source, ["gradcam"], tmp_path / "run", settings=how, given=given)
    found = outcome.run.maps("gradcam")
    assert set(found.image_ids) == set(given)
    changed_pixels = pixels_of(source)
    for ref in source.refs:
        x = torch.from_numpy(changed_pixels[ref.image_id])[None]
        alone = salience.explain(classifier, x, "gradcam", target=given[ref.image_id], batch_size=batch)
        row = found.image_ids.index(ref.image_id)
        assert found.targets[row] == given[ref.image_id]
        np.testing.assert_allclose(found.values[row], alone.values[0], atol=2e-3 * np.abs(alone.values).max())


def test_the_order_of_images_and_batches_changes_no_byte(tmp_path: Path, one_thread: None) -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, *SIZE, 3), dtype=np.uint8)
    base = open_images(images)
    classifier = small_classifier(size=32)
    chosen = tuple(c for c in conditions().values() if c.fits(SIZE))
    outcomes = []
    for name, refs in (("all", base.refs), ("reversed", base.refs[::-1])):
        source = under_conditions(base, refs, chosen, PREPROCESSING, clean=Maps())
        given = {ref.image_id: 2 for ref in source.refs}
        run = explain_run([classifier], source, ["gradcam"], tmp_path / name, settings=FAST, given=given).run
        maps = run.maps("gradcam")
        outcomes.append(dict(zip(maps.image_ids, (m.tobytes() for m in maps.values), strict=True)))
    assert outcomes[0] == outcomes[1]
    again = explain_run([classifier], source, ["gradcam"], tmp_path / "reversed", settings=FAST, given=given)
    assert again.summaries["small"].computed == 0
