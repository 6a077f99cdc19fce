from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_nets import QUICK, write_backbone, write_images, write_maps

import salience
from salience.data.decode import load
from salience.data.source import open_images
from salience.engine.events import Event, Finished, Progress, Started
from salience.engine.runner import to_pixels
from salience.errors import ImagesError, MethodError, ModelError, RunError, SettingsError
from salience.training import Recipe, Trained, fitting, train
from salience.training.fitting import batches
from salience.training.records import locked

LAST = replace(QUICK, train="last")
GUIDED = replace(LAST, loss="guided")


@pytest.fixture
def place(tmp_path: Path, one_thread: None) -> Path:
    write_backbone(tmp_path / "net")
    write_images(tmp_path / "images")
    write_maps(tmp_path / "images", tmp_path / "maps")
    return tmp_path


def run(place: Path, recipe: Recipe = LAST, out: str = "models", **more: Any) -> Trained:
    settings = {"runs": 2, "device": "cpu", **more}
    backbone = settings.pop("backbone", place / "net" / "blocks.toml")
    return train(settings.pop("images", place / "images"), backbone, place / out, recipe=recipe, **settings)


def weights(place: Path, out: str = "models") -> dict[str, bytes]:
    return {p.stem: p.read_bytes() for p in sorted((place / out).glob("*.safetensors"))}


def accuracy(card: Path, images: Path) -> float:
    model = salience.load_model(card, device="cpu")
    source = open_images(images)
    pixels = to_pixels([load(source, ref, model.preprocessing).pixels for ref in source.refs], model)
    with torch.no_grad():
        predicted = model.logits(pixels).argmax(1)
    return float(
        np.mean([model.class_names[int(p)] == ref.label for p, ref in zip(predicted, source.refs, strict=True)])
    )


# ---------------------------------------------------------------------- what it leaves


def test_a_group_is_cards_that_load_and_have_learnt(place: Path) -> None:
    trained = run(place, replace(LAST, epochs=10))
    assert trained.group == "plain"
    assert [record.name for record in trained.runs] == ["plain_01", "plain_02"]
    for card, record in zip(trained.cards, trained.runs, strict=True):
        model = salience.load_model(card, device="cpu")
        assert model.name == record.name
        assert model.class_names == ("cold", "warm")
        assert model.preprocessing.mean == (0.5, 0.5, 0.5)
        assert accuracy(card, place / "images") > 0.9
        assert 0.8 <= record.accuracy <= 1
    found = weights(place)
    assert found["plain_01"] != found["plain_02"]
    with (place / "models" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["plain_01", "plain_02"]
    assert float(rows[0]["accuracy"]) == trained.runs[0].accuracy
    with (place / "models" / "plain_01.log.csv").open() as file:
        log = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in log] == list(range(1, 11))
    assert float(log[-1]["loss"]) < float(log[0]["loss"])


@pytest.mark.parametrize("part", ["head", "last", "blocks.1", "all"])
def test_only_the_part_is_changed(place: Path, part: str) -> None:
    run(place, replace(LAST, train=part), runs=1)
    before = salience.load_model(place / "net" / "blocks.toml", device="cpu").module.state_dict()
    after = load_file(place / "models" / "plain_01.safetensors")
    assert set(after) == set(before)
    changed = {
        k.rpartition(".")[0]
        for k in after
        if k not in ("fc.weight", "fc.bias") and not torch.equal(after[k], before[k])
    }
    blocks = {f"blocks.{i}.{m}" for i in range(3) for m in ("conv", "norm")}
    wanted = {
        "head": set(),
        "last": {"blocks.2.conv", "blocks.2.norm"},
        "blocks.1": {b for b in blocks if b[7] in "12"},
        "all": blocks | {"stem.0"},
    }[part]
    assert changed == wanted


def test_the_accuracy_is_that_of_the_card_on_the_images_held_out(place: Path) -> None:
    from salience.training.samples import choose_samples, split

    trained = run(place, replace(LAST, epochs=2, lr=0.01), runs=1)
    samples, _ = choose_samples(open_images(place / "images"), None)
    _, held = split(samples, 0.2, 0)
    model = salience.load_model(trained.cards[0], device="cpu")
    chosen = samples.take(held)
    pixels = to_pixels([load(chosen.source, ref, model.preprocessing).pixels for ref in chosen.refs], model)
    with torch.no_grad():
        right = model.logits(pixels).argmax(1).numpy() == chosen.labels
    assert trained.runs[0].accuracy == pytest.approx(right.mean(), abs=1e-6)


def test_cards_hold_after_the_folder_has_moved(place: Path) -> None:
    run(place, runs=1)
    (place / "elsewhere").mkdir()
    (place / "models").rename(place / "elsewhere" / "models")
    (place / "net").rename(place / "elsewhere" / "net")
    assert salience.load_model(place / "elsewhere" / "models" / "plain_01.toml", device="cpu").num_classes == 2


def test_a_backbone_in_a_python_file_and_a_package(place: Path) -> None:
    spec = f"{place / 'net' / 'nets.py'}:blocks?size=16&mean=0.5&std=0.25"
    trained = run(place, runs=1, backbone=spec, out="a")
    assert "../net/nets.py:blocks?size=16" in (place / "a" / "plain_01.toml").read_text()
    assert salience.load_model(trained.cards[0], device="cpu").num_classes == 2
    assert weights(place, "a") == weights_of(run(place, runs=1, out="b"))


def weights_of(trained: Trained) -> dict[str, bytes]:
    return {card.stem: card.with_suffix(".safetensors").read_bytes() for card in trained.cards}


def test_a_group_can_be_trained_further(place: Path) -> None:
    first = run(place, runs=1)
    second = run(place, QUICK, runs=1, backbone=first.cards[0], out="further")
    assert salience.load_model(second.cards[0], device="cpu").num_classes == 2


def test_small_networks_are_trained_from_scratch(place: Path) -> None:
    recipe = Recipe(train="all", epochs=3, batch_size=6, lr=0.05, schedule="cosine", augment=("flip", "shift"))
    trained = run(place, recipe, backbone="small:width=8", size=16, out="small")
    first, second = (salience.load_model(card, device="cpu") for card in trained.cards)
    assert first.preprocessing.size == (16, 16)
    assert not torch.equal(first.module.get_parameter("stem.0.weight"), second.module.get_parameter("stem.0.weight"))


# ---------------------------------------------------------------------- seeds


def test_runs_are_the_same_to_the_byte_whenever_they_are_trained(place: Path) -> None:
    before = torch.get_rng_state()
    run(place, out="a", runs=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(17)
    run(place, out="b", runs=1)
    run(place, out="b", runs=3)
    assert weights(place, "a") == weights(place, "b")
    assert weights(place, "a") != weights_of(run(place, replace(LAST, seed=1), out="c", runs=3))


def test_groups_of_one_seed_begin_alike(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    begin = fitting._begin

    def watch(problem: Any, number: int) -> None:
        begin(problem, number)
        seen.setdefault(problem.recipe.default_name, []).append(problem.module.get_parameter("fc.weight").clone())

    monkeypatch.setattr(fitting, "_begin", watch)
    run(place)
    run(place, GUIDED, human=place / "maps")
    assert all(torch.equal(a, b) for a, b in zip(seen["plain"], seen["guided"], strict=True))
    assert not torch.equal(*seen["plain"])


def test_dropout_draws_the_runs_own_numbers(place: Path) -> None:
    backbone = write_backbone(place / "net", "dropping")
    before = torch.get_rng_state()
    run(place, out="a", backbone=backbone)
    torch.rand(5)
    run(place, out="b", backbone=backbone)
    assert weights(place, "a") == weights(place, "b")
    torch.set_rng_state(before)


def test_what_is_kept_of_the_stem_changes_no_more_than_the_order_of_sums(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(place, GUIDED, out="kept", human=place / "maps", runs=1)
    monkeypatch.setattr("salience.training.setup.cut_at", lambda *_: None)
    run(place, GUIDED, out="whole", human=place / "maps", runs=1)
    kept, whole = (load_file(place / out / "guided_01.safetensors") for out in ("kept", "whole"))
    assert all(torch.allclose(kept[k].double(), whole[k].double(), atol=1e-4) for k in kept)


# ---------------------------------------------------------------------- guiding


def test_guided_runs_look_where_the_maps_say(place: Path) -> None:
    recipe = replace(GUIDED, epochs=25, alpha=0.1, target="true")
    guided = run(place, recipe, human=place / "maps", runs=1)
    plain = run(place, replace(LAST, epochs=25), runs=1)
    share = {}
    for trained in (guided, plain):
        maps = salience.explain(
            salience.load_model(trained.cards[0], device="cpu"), place / "images", method="hirescam", target="label"
        ).values
        scaled = maps - maps.min((1, 2), keepdims=True)
        share[trained.group] = scaled[:, :2, :2].sum() / scaled.sum()
    assert share["guided"] > share["plain"] + 0.1


def test_the_head_alone_can_be_guided(place: Path) -> None:
    recipe = replace(GUIDED, train="head", epochs=20, alpha=0.0)
    log = place / "models" / "guided_01.log.csv"
    run(place, recipe, human=place / "maps", runs=1)
    with log.open() as file:
        errors = [float(row["map_error"]) for row in csv.DictReader(file)]
    assert errors[-1] < errors[0]


def test_alpha_one_gives_the_weights_of_a_plain_run(place: Path) -> None:
    run(place, runs=1)
    run(place, replace(GUIDED, alpha=1.0), runs=1)
    found = weights(place)
    assert found["guided_01"] == found["plain_01"]


def test_controls_differ_from_the_own_maps_and_from_run_to_run(place: Path) -> None:
    for i, path in enumerate(sorted((place / "maps").glob("*/*.png"))):
        pixels = np.zeros((16, 16), np.uint8)
        pixels[i % 4 * 4 : i % 4 * 4 + 4] = 255
        from PIL import Image

        Image.fromarray(pixels).save(path)
    run(place, GUIDED, human=place / "maps", runs=1)
    run(place, replace(GUIDED, control="shuffled"), human=place / "maps", runs=1)
    run(place, replace(GUIDED, control="centre"), runs=1)
    found = weights(place)
    assert sorted(found) == ["guided-centre_01", "guided-shuffled_01", "guided_01"]
    assert len(set(found.values())) == 3


def test_boxes_of_the_manifest_guide(place: Path) -> None:
    rows = [
        f'{p.relative_to(place / "images")},{p.parent.name},"[[0, 0, 8, 8]]"'
        for p in (place / "images").glob("*/*.png")
    ]
    (place / "images" / "labels.csv").write_text("\n".join(["file,label,boxes", *sorted(rows)]))
    boxes = run(place, GUIDED, human="boxes", runs=1, out="boxes")
    assert weights_of(boxes) == weights_of(run(place, GUIDED, human=place / "maps", runs=1, out="maps-out"))


# ---------------------------------------------------------------------- carrying on


class KilledError(BaseException):
    pass


def test_a_killed_training_goes_on_with_the_same_numbers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(GUIDED, epochs=5)
    run(place, recipe, human=place / "maps", out="whole", runs=3)
    monkeypatch.setattr(fitting, "CHECKPOINT_S", 0.0)
    epoch, done = fitting._epoch, []

    def dies(*args: Any) -> Any:
        done.append(1)
        if len(done) in (3, 9, 10):  # in the first run, in the second, and at once
            raise KilledError
        return epoch(*args)

    monkeypatch.setattr(fitting, "_epoch", dies)
    for _ in range(3):
        with pytest.raises(KilledError):
            run(place, recipe, human=place / "maps", out="killed", runs=3)
    run(place, recipe, human=place / "maps", out="killed", runs=3)
    assert len(done) == 15 + 3  # no epoch that was finished is repeated
    assert weights(place, "killed") == weights(place, "whole")
    assert not list((place / "killed" / ".training").glob("guided_*.safetensors"))


def test_finished_runs_are_not_touched_and_more_are_added(place: Path) -> None:
    first = run(place, runs=2)
    stamps = {card: card.with_suffix(".safetensors").stat().st_mtime_ns for card in first.cards}
    more = run(place, runs=3)
    assert more.trained == 1
    assert len(more.runs) == 3
    assert more.runs[:2] == first.runs
    assert {card: card.with_suffix(".safetensors").stat().st_mtime_ns for card in first.cards} == stamps
    assert run(place, runs=2).runs == first.runs


def test_nothing_is_trained_over_another_training(place: Path) -> None:
    run(place, runs=1)
    before = weights(place)
    with pytest.raises(RunError, match=r"plain_01 was trained in another way: recipe was"):
        run(place, replace(LAST, lr=0.02), runs=2)
    write_images(place / "images", 13)
    with pytest.raises(RunError, match="images was"):
        run(place, runs=2)
    assert weights(place) == before
    assert run(place, name="more", runs=1).group == "more"


def test_a_run_whose_weights_are_gone_is_trained_again(place: Path) -> None:
    run(place, runs=1)
    before = weights(place)
    (place / "models" / "plain_01.safetensors").unlink()
    assert run(place, runs=1).trained == 1
    assert weights(place) == before


def test_two_processes_cannot_train_one_run(place: Path) -> None:
    with locked(place / "models", "plain_01"), pytest.raises(RunError, match="Another process is training"):
        run(place, runs=1)


def test_a_damaged_checkpoint_is_no_checkpoint(place: Path) -> None:
    (place / "models" / ".training").mkdir(parents=True)
    (place / "models" / ".training" / "plain_01.safetensors").write_bytes(b"\x08\x00damaged")
    run(place, runs=1)
    assert weights(place) == weights_of(run(place, runs=1, out="other"))


# ---------------------------------------------------------------------- stopping and choosing


def rows(*scores: float, recalls: tuple[float, ...] | None = None) -> list[fitting.EpochRow]:
    recalls = recalls or scores
    return [
        fitting.EpochRow(i + 1, 0.1, 0, 0, 0, 0, s, r, 0) for i, (s, r) in enumerate(zip(scores, recalls, strict=True))
    ]


def test_the_last_of_the_best_epochs_is_kept() -> None:
    assert fitting._best(Recipe(), rows(0.5, 0.9, 0.9, 0.8)) == 3
    assert fitting._best(Recipe(balanced=True), rows(0.5, 0.9, 0.9, recalls=(0.7, 0.6, 0.5))) == 1


def test_patience_counts_epochs_without_a_better_one() -> None:
    recipe = Recipe(patience=2, epochs=9)
    assert not fitting._finished(recipe, rows(0.5, 0.9, 0.9))
    assert fitting._finished(recipe, rows(0.5, 0.9, 0.9, 0.9))
    assert not fitting._finished(recipe, rows(0.5, 0.9, 0.9, 0.95))
    assert not fitting._finished(Recipe(), rows(*[0.5] * 49))
    assert fitting._finished(Recipe(), rows(*[0.5] * 50))


def test_a_run_stops_early_and_says_so(place: Path) -> None:
    trained = run(place, replace(LAST, epochs=40, patience=3), runs=1)
    assert trained.runs[0].epochs < 40


def test_the_weights_are_those_of_the_best_epoch(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.2, 0.9, 0.4, 0.3])
    run(place, replace(LAST, epochs=2), runs=1, out="two")
    monkeypatch.setattr(fitting, "validate", lambda problem: (next(scores),) * 2)
    best = run(place, LAST, runs=1, out="best")
    assert best.runs[0].best_epoch == 2
    scores = iter([0.2, 0.9])
    assert weights_of(best) == weights_of(run(place, replace(LAST, epochs=2), runs=1, out="again"))


def test_no_image_is_left_alone_in_a_batch() -> None:
    assert [len(b) for b in batches(np.arange(41), 20)] == [20, 21]
    assert [len(b) for b in batches(np.arange(42), 20)] == [20, 20, 2]
    assert [len(b) for b in batches(np.arange(1), 20)] == [1]
    assert np.concatenate(batches(np.arange(41), 20)).tolist() == list(range(41))


def test_balanced_classes_weigh_alike(place: Path) -> None:
    for path in sorted((place / "images" / "cold").iterdir())[4:]:
        path.unlink()
    seen = []
    from salience.training import group

    watched = group._with_weights

    def watch(*args: Any) -> Any:
        seen.append(watched(*args))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "_with_weights", watch)
        run(place, replace(LAST, balanced=True), runs=1)
    assert seen[0].class_weights == pytest.approx((13 / (2 * 3), 13 / (2 * 10)))


# ---------------------------------------------------------------------- what is told


def test_it_tells_how_far_it_is(place: Path) -> None:
    events: list[Event] = []
    run(place, listen=events.append)
    started = [(e.model, e.verb, e.images) for e in events if isinstance(e, Started)]
    assert started == [("images", "decode", 24), ("blocks", "encode", 24), ("plain", "train", 2 * 4 * 20)]
    finished = [(e.model, e.computed) for e in events if isinstance(e, Finished)]
    assert finished == [("images", 24), ("blocks", 24), ("plain", 160)]
    shares = [e.share for e in events if isinstance(e, Progress) and e.model == "plain"]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    events.clear()
    run(place, listen=events.append)
    assert events == []


def test_broken_images_are_left_out_and_told(place: Path) -> None:
    (place / "images" / "cold" / "cold03.png").write_bytes(b"")
    trained = run(place, runs=1)
    assert [image_id for image_id, _ in trained.failures] == ["cold/cold03.png"]
    assert trained.to_dict()["failures"][0]["image_id"] == "cold/cold03.png"


def test_the_record_is_plain_json(place: Path) -> None:
    told = json.loads(json.dumps(run(place).to_dict()))
    assert told["group"] == "plain"
    assert [r["card"] for r in told["runs"]] == ["plain_01.toml", "plain_02.toml"]
    assert told["sd"] is not None


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("recipe", "more", "error", "message"),
    [
        (GUIDED, {}, SettingsError, "needs human maps: --human FOLDER"),
        (LAST, {"human": "boxes"}, SettingsError, "the loss does not use them"),
        (LAST, {"runs": 0}, SettingsError, "runs is 0"),
        (LAST, {"classes": ["cold", "hot"]}, ImagesError, "no image of the class 'hot'"),
        (LAST, {"backbone": "small:width=9"}, SettingsError, "one of 8, 16, 32, 64"),
        (LAST, {"backbone": "small"}, SettingsError, "--train all"),
        (LAST, {"name": "a b"}, ModelError, "cannot name a model"),
        (LAST, {"threads": 0}, SettingsError, "threads is 0"),
        (replace(LAST, train="blocks.7"), {}, ModelError, "does not exist"),
        (replace(LAST, lr=1e30, epochs=9), {}, ModelError, r"plain_01: The loss is no number any more .* smaller --lr"),
    ],
)
def test_what_cannot_be_is_refused(
    place: Path, recipe: Recipe, more: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(place, recipe, **more)


def test_models_without_a_class_activation_map_cannot_be_guided(place: Path) -> None:
    vit = write_backbone(place / "net", "vit")
    with pytest.raises(MethodError, match="'vit' cannot be guided by human maps"):
        run(place, replace(GUIDED, train="head"), human=place / "maps", backbone=vit)
    assert len(run(place, replace(LAST, train="head"), backbone=vit, runs=1).runs) == 1


def test_memory_that_runs_out_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(fitting, "_step", full)
    with pytest.raises(SettingsError, match=r"Memory ran out with batches of 6 images.*smaller --batch-size"):
        run(place)


def test_a_model_that_only_answers_cannot_be_trained(place: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    module = salience.load_model(place / "net" / "blocks.toml", device="cpu").module
    program = torch.export.export(module, (torch.rand(2, 3, 16, 16),))
    torch.export.save(program, place / "net.pt2")
    with pytest.raises(ModelError, match="cannot be trained"):
        run(place, backbone=f"pt2:{place / 'net.pt2'}?size=16&mean=0.5&std=0.5")


def test_the_room_is_entered_without_torch() -> None:
    code = "import sys, salience; salience.training; import salience.training as t; assert 'GuidedLoss' in dir(t); "
    code += "assert 'torch' not in sys.modules; t.GuidedLoss; assert 'torch' in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
