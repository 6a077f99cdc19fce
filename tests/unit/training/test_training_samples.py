from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_nets import write_images

from salience.data.decode import load
from salience.data.preprocessing import Preprocessing
from salience.data.source import open_images
from salience.errors import ImagesError, RunError, SettingsError
from salience.training.samples import array_file, choose_samples, decode_once, split

SEEN = Preprocessing(size=(16, 16))


def test_classes_are_the_label_names_in_order(tmp_path: Path) -> None:
    samples, notes = choose_samples(open_images(write_images(tmp_path / "i", 3)), None)
    assert samples.classes == ("cold", "warm")
    assert samples.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert notes == []


def test_classes_can_be_named_in_another_order(tmp_path: Path) -> None:
    samples, _ = choose_samples(open_images(write_images(tmp_path / "i", 3)), ("warm", "cold"))
    assert samples.labels.tolist() == [1, 1, 1, 0, 0, 0]


def test_images_of_other_classes_are_left_out_and_told(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 3)
    (tmp_path / "i" / "cold").rename(tmp_path / "i" / "mild")
    write_images(tmp_path / "i", 3)
    samples, notes = choose_samples(open_images(tmp_path / "i"), ("cold", "warm"))
    assert len(samples) == 6 + 0
    assert any("3 of 9 images have none of these classes" in note for note in notes)


def test_class_numbers_take_the_titles_of_an_archive(tmp_path: Path) -> None:
    images = np.zeros((6, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=[0, 1, 0, 1, 0, 1], classes=["low", "high"])
    samples, _ = choose_samples(open_images(tmp_path / "a.npz"), None)
    assert samples.classes == ("low", "high")


def test_labels_are_needed(tmp_path: Path) -> None:
    Image.effect_noise((8, 8), 50).save(tmp_path / "a.png")
    with pytest.raises(ImagesError, match="has no labels"):
        choose_samples(open_images(tmp_path), None)


def test_one_class_is_too_few(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 3)
    for path in (tmp_path / "i" / "warm").iterdir():
        path.unlink()
    with pytest.raises(SettingsError, match="The classes are cold: two or more"):
        choose_samples(open_images(tmp_path / "i"), None)
    with pytest.raises(ImagesError, match=r"no image of the class 'warm'. Its labels are cold"):
        choose_samples(open_images(tmp_path / "i"), ("cold", "warm"))


def test_each_class_has_its_share_held_out(tmp_path: Path) -> None:
    labels = ["a"] * 30 + ["b"] * 10
    source = open_images(np.zeros((40, 4, 4, 3), np.uint8), labels=labels)
    samples, _ = choose_samples(source, None)
    rows, held = split(samples, 0.2, 0)
    assert np.bincount(samples.labels[held]).tolist() == [6, 2]
    assert sorted([*rows, *held]) == list(range(40))
    assert (split(samples, 0.2, 0)[1] == held).all()
    assert (split(samples, 0.2, 1)[1] != held).any()


def test_who_is_held_out_hardly_depends_on_other_images(tmp_path: Path) -> None:
    source = open_images(np.zeros((40, 4, 4, 3), np.uint8), labels=["a", "b"] * 20)
    samples, _ = choose_samples(source, None)
    half = samples.take(np.arange(20))
    before, after = set(split(half, 0.5, 0)[1].tolist()), set(split(samples, 0.5, 0)[1].tolist())
    assert len(before & after) >= 7  # of 10


def test_a_class_of_two_images_is_too_small(tmp_path: Path) -> None:
    source = open_images(np.zeros((6, 4, 4, 3), np.uint8), labels=list("aaaabb"))
    samples, _ = choose_samples(source, None)
    with pytest.raises(ImagesError, match=r"Too few images to train with \(b: 2\)"):
        split(samples, 0.2, 0)


def test_pixels_are_those_of_the_decoder_and_decoded_once(tmp_path: Path) -> None:
    samples, _ = choose_samples(open_images(write_images(tmp_path / "i", 40, size=20)), None)
    told: list[int] = []
    found = decode_once(samples, SEEN, tmp_path / "state", told.append)
    assert told == [64, 80]
    rows = np.array([70, 3])
    for pixels, row in zip(found.read(rows), rows, strict=True):
        assert (pixels == load(samples.source, samples.refs[row], SEEN).pixels).all()
    assert found.sizes[0].tolist() == [20, 20]
    again = decode_once(samples, SEEN, tmp_path / "state", told.append)
    assert told == [64, 80]
    assert again.key == found.key


def test_another_content_is_another_key(tmp_path: Path) -> None:
    samples, _ = choose_samples(open_images(write_images(tmp_path / "i", 3)), None)
    before = decode_once(samples, SEEN, tmp_path / "state").key
    Image.effect_noise((16, 16), 50).save(tmp_path / "i" / "cold" / "cold01.png")
    assert decode_once(samples, SEEN, tmp_path / "state").key != before


def test_broken_images_are_failures(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 4)
    (tmp_path / "i" / "cold" / "cold01.png").write_bytes(b"broken")
    samples, _ = choose_samples(open_images(tmp_path / "i"), None)
    found = decode_once(samples, SEEN, tmp_path / "state")
    assert [image_id for image_id, _ in found.failures] == ["cold/cold01.png"]
    assert "not an image" in found.failures[0][1]
    assert len(found.samples) == 7
    assert found.samples.refs[1].image_id == "cold/cold02.png"
    assert (found.read(np.array([1]))[0] == load(samples.source, samples.refs[2], SEEN).pixels).all()
    assert decode_once(samples, SEEN, tmp_path / "state").failures == found.failures


def test_floats_stay_floats(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((6, 3, 16, 16), dtype=np.float32)
    samples, _ = choose_samples(open_images(images, labels=[0, 1] * 3), None)
    found = decode_once(samples, SEEN, tmp_path / "state")
    assert (found.read(np.array([4]))[0] == images[4].transpose(1, 2, 0)).all()


def test_an_array_on_the_disk_is_made_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.npy"

    def fails(array: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
        array[0] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        array_file(path, (2,), np.int64, fails)
    assert list(path.parent.iterdir()) == []
    made = array_file(path, (2,), np.int64, lambda array: array.__setitem__(slice(None), 7))
    assert made.tolist() == [7, 7]
    assert array_file(path, (2,), np.int64, fails).tolist() == [7, 7]


def test_a_disk_without_room_is_told_before_it_is_filled(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="GiB are needed"):
        array_file(tmp_path / "x.npy", (1 << 50,), np.int64, lambda array: None)
    assert list(tmp_path.iterdir()) == []
