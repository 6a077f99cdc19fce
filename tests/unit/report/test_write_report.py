from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from parsed_page import Page
from salience.errors import RunError
from salience.report import write_report
from salience.report.bundles import Bundles
from salience.report.figures import histogram
from salience.report.gather import MOST_TARGETS
from salience.report.payload import safe_json
from salience.report.words import MINUS
from synthetic_runs import CLASSES, FakeMethod, FakeModel, FakeRun

HOSTILE = "<img src=x onerror=alert(1)>.png"


def write(run: FakeRun, **options: Any) -> Page:
    return Page(write_report(run.write(), **options).read_text(encoding="utf-8"))


def test_page_says_what_was_run_and_how_well(tmp_path: Path) -> None:
    page = write(FakeRun(tmp_path))
    text = " ".join(page.text.replace("\N{NO-BREAK SPACE}", " ").split())
    assert "fish on 6 images" in text
    assert "4 methods, explained for the predicted class (logit). 67 % right. 3.5 s, 3.0 images/s." in text
    assert "salience explain photos --model fish=card.toml --out run" in text
    assert "gradcam is stored at its own grid of 4 \N{MULTIPLICATION SIGN} 4 and enlarged bilinearly here." in text
    assert "99.5th percentile" in text
    assert "None: every image was read" in text


def test_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = write(FakeRun(tmp_path))
    assert [p.name for p in (tmp_path / "run" / "report").iterdir()] == ["index.html"]
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            link = attributes.get(name) or "#"
            assert link.startswith(("#", "data:")), (tag, link)
    assert not re.search(r"url\((?![\"']?#)|@import|https?://(?!www\.w3\.org/2000/svg)", page.blocks["style"])
    assert page.data["files"] == []


def test_every_map_and_photo_is_a_picture(tmp_path: Path) -> None:
    page = write(FakeRun(tmp_path))
    assert len(page.pictures) == 6 * 5
    for data in page.pictures.values():
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 32)


def test_the_machine_is_not_shown(tmp_path: Path) -> None:
    page = write(FakeRun(tmp_path, failed_images=(1,), missing=(2,)))
    assert str(tmp_path) not in page.source


def test_names_of_files_and_classes_are_text(tmp_path: Path) -> None:
    classes = ("</script><script>alert(2)</script>", "<b>bold</b>", "a&b", "owl")
    page = write(
        FakeRun(
            tmp_path,
            names={0: HOSTILE},
            models=(FakeModel(name='"><svg onload=alert(3)>', classes=classes),),
            failed_maps=((0, "ig"),),
        )
    )
    assert not [a for tag, a in page.elements if tag == "img" or any(k.startswith("on") for k in a)]
    assert "<b>bold" not in page.source
    assert page.data["images"][0]["id"] == HOSTILE
    assert page.data["models"][0]["classes"]["0"][0] == classes[0]
    assert page.source.count("<script") == 3
    assert page.source.count("</script") == 3
    assert HOSTILE in page.text


def test_json_cannot_end_its_element() -> None:
    value = {"</script><!--": "\u2028&<>"}
    text = str(safe_json(value))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_signed_maps_diverge_and_others_do_not(tmp_path: Path) -> None:
    page = write(FakeRun(tmp_path))
    scales = {c["method"]: c["scale"] for c in page.data["models"][0]["columns"]}
    assert scales == {"gradient": "sequential", "contrast": "diverging", "gradcam": "sequential", "ig": "diverging"}
    low, high = page.data["models"][0]["entries"][0]["maps"]["1"][0]["range"]
    assert low.startswith(MINUS)
    assert not high.startswith(MINUS)


def test_failures_are_listed_and_counted(tmp_path: Path) -> None:
    page = write(FakeRun(tmp_path, failed_images=(3,), failed_maps=((1, "contrast"),)))
    assert "bird/003.png: the file is empty (0 bytes)." in page.text
    assert "The map is not finite." in page.text
    entries = page.data["models"][0]["entries"]
    assert entries[3]["failures"] == [[None, "image could not be read", "bird/003.png: the file is empty (0 bytes)."]]
    assert entries[1]["failures"][0][0] == "contrast"
    assert "predicted" not in entries[3]
    assert "0" in entries[1]["maps"]


def test_photos_that_vanished_are_explained(tmp_path: Path) -> None:
    page = write(FakeRun(tmp_path, missing=(2, 4)))
    assert page.data["missing"] == dict.fromkeys(("p0.2", "p0.4"), "The file is no longer where it was.")
    assert "m0.2.0.3" in page.pictures


def test_all_targets_are_there_up_to_a_limit(tmp_path: Path) -> None:
    many = tuple(f"class {i}" for i in range(15))
    model = FakeModel(classes=many, target="all", methods=(FakeMethod("gradient"),))
    page = write(FakeRun(tmp_path, images=3, models=(model,)))
    for i, entry in enumerate(page.data["models"][0]["entries"]):
        targets = {m["target"] for m in entry["maps"]["0"]}
        assert {entry["predicted"], i} <= targets
        assert len(targets) <= MOST_TARGETS + 1
        assert entry["dropped"] == 15 - len(targets)


def test_two_models_each_have_their_own_classes_and_share_photos(tmp_path: Path) -> None:
    other = FakeModel("other", classes=(*CLASSES[::-1], "extra"), methods=(FakeMethod("gradient"),))
    page = write(FakeRun(tmp_path, models=(FakeModel(), other)))
    first, second = page.data["models"]
    assert second["geometry"] == first["geometry"] == 0
    assert [first["classes"][str(e["label"])] for e in first["entries"]] == [
        second["classes"][str(e["label"])] for e in second["entries"]
    ]
    assert sum(key.startswith("p") for key in page.pictures) == 6
    assert sum(key.startswith("m1.") for key in page.pictures) == 6


def test_models_of_other_sizes_have_their_own_photos(tmp_path: Path) -> None:
    small = FakeModel("small", size=(16, 16), methods=(FakeMethod("gradient", grid=(16, 16)),))
    page = write(FakeRun(tmp_path, models=(FakeModel(), small)))
    assert page.data["models"][1]["geometry"] == 1
    assert sum(key.startswith("p1.") for key in page.pictures) == 6


def test_images_without_labels_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    page = write(FakeRun(tmp_path, labels=False))
    assert "right." not in page.text
    radios = [a.get("value") for tag, a in page.elements if tag == "input" and a.get("name") == "outcome"]
    assert radios == ["all", "failed"]


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    page = write(FakeRun(tmp_path, status="interrupted", unfinished=(4, 5)))
    assert "This run was interrupted" in page.text
    assert "pending" in [a.get("value") for _, a in page.elements if a.get("name") == "outcome"]


def test_a_run_without_results_is_a_page_too(tmp_path: Path) -> None:
    page = write(FakeRun(tmp_path, images=2, unfinished=(0, 1), status="running"))
    assert page.pictures.keys() == {"p0.0", "p0.1"}


def test_many_pictures_go_beside_the_page_and_the_first_stay(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, images=12)
    page = write(run, inline_bytes=9000)
    entries = page.data["models"][0]["entries"]
    report = run.run / "report"
    assert entries[0]["place"] == 0
    assert "p0.0" in page.pictures
    assert entries[-1]["place"] == len(page.data["files"]) >= 1
    assert sorted(p.name for p in report.glob("data-*.js")) == sorted(page.data["files"])
    found = dict(page.pictures)
    for number, name in enumerate(page.data["files"], 1):
        text = (report / name).read_text()
        assert text.startswith(f'"use strict";salienceTake({number},')
        found |= json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert len(found) == 12 * 5


def test_writing_again_leaves_no_old_sidecars(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, images=12)
    write(run, inline_bytes=9000)
    stale = run.run / "report" / "data-0009-00000000.js"
    stale.write_text("")
    write_report(run.run)
    assert [p.name for p in (run.run / "report").iterdir()] == ["index.html"]


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = FakeRun(tmp_path).write()
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_a_damaged_array_is_a_failure_and_not_a_crash(tmp_path: Path) -> None:
    run = FakeRun(tmp_path).write()
    shutil.rmtree(next((run / "maps").glob("fish.gradcam.*")) / "c")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "stored map damaged" in page.text
    assert str(tmp_path) not in page.source
    assert "damaged" in page.data["models"][0]["columns"][2]
    assert len(page.pictures) == 6 * 4


def test_no_run_no_page(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run directory"):
        write_report(tmp_path)


def test_torch_is_never_imported(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, images=1).write()
    code = "import sys, salience.report as r; r.write_report(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(run)], check=True)


def test_bundles_keep_every_picture_once_and_in_order(tmp_path: Path) -> None:
    bundles = Bundles(tmp_path, inline_bytes=2_500_000)
    for i in range(9):
        bundles.add({f"p0.{i}": bytes(400_000)})
    bundles.close()
    assert bundles.places == sorted(bundles.places)
    assert len(bundles.places) == 9
    assert bundles.places[0] == 0
    assert bundles.total == 3_600_000
    assert len(bundles.files) == max(bundles.places) > 1


def test_histogram_counts_every_image_once() -> None:
    bins = histogram([(0.0, True), (0.05, False), (0.999, None), (1.0, True), (float("nan"), None)])
    assert [b.total for b in bins] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert (bins[0].right, bins[0].wrong, bins[9].unknown) == (1, 1, 1)
