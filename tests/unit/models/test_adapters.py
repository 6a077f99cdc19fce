"""timm, torchvision, transformers and exported programs, on small models with random weights."""

from __future__ import annotations

import importlib
import json
import pickle
import urllib.error
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_nets import tiny
from torch import nn
from torch.export import Dim

from salience.errors import MethodError, ModelError, SalienceWarning
from salience.models import Classifier, find_layer, load_model
from salience.models.classifier import GRADIENTS
from salience.models.exported import ExportedModule, refuse_pickles


def _library(name: str) -> Any:
    """Import an optional package, or skip: a torchvision beside a CPU-only torch raises RuntimeError."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


def load(spec: str) -> Classifier:
    return load_model(spec, device="cpu")


# ---------------------------------------------------------------------- timm


def test_timm_gives_its_own_preprocessing_and_names() -> None:
    _library("timm")
    model = load("timm:test_resnet?pretrained=false")
    assert model.name == "test_resnet"
    assert model.preprocessing.to_dict() == {
        "size": [160, 160],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bilinear",
        "fit": "crop",
        "crop": 0.95,
    }
    assert model.class_names[0] == "tench"
    assert find_layer(model).grid == (5, 5)


def test_timm_knows_the_tokens_of_its_vits_and_not_of_those_with_stages() -> None:
    _library("timm")
    vit = load("timm:test_vit?pretrained=false")
    assert vit.token_grid == (10, 10)
    assert find_layer(vit).layout == "tokens"
    assert load("timm:test_convnext?pretrained=false").token_grid is None


def test_timm_geometry_that_cannot_be_said_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = _library("timm")
    make = timm.create_model
    for mode in ("squash", "border"):
        net = make("test_resnet", pretrained_cfg_overlay={"crop_mode": mode})
        monkeypatch.setattr(timm, "create_model", lambda *_, net=net, **__: net)
        if mode == "squash":
            with pytest.warns(SalienceWarning, match="squashed and then cropped to 95%"):
                seen = load("timm:test_resnet?pretrained=false").preprocessing
            assert (seen.fit, seen.crop) == ("squash", 1.0)
        else:
            with pytest.raises(ModelError, match="crop mode 'border'"):
                load("timm:test_resnet?pretrained=false")


def test_timm_takes_weights_and_classes_of_ones_own(tmp_path: Path) -> None:
    timm = _library("timm")
    state = timm.create_model("test_resnet", num_classes=3).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    (tmp_path / "c.txt").write_text("a\nb\nc\n")
    spec = f"timm:test_resnet?weights={tmp_path / 'w.safetensors'}"
    model = load(f"{spec}&classes={tmp_path / 'c.txt'}")
    assert model.class_names == ("a", "b", "c")
    assert torch.equal(model.module.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    assert load(f"{spec}&num_classes=3").class_names == ("0", "1", "2")
    with pytest.raises(ModelError, match=r"fc.weight is \(3, \d+\) in the file and \(1000"):
        load(spec)
    with pytest.raises(ModelError, match=r"num_classes is 4, but .* holds 3 names"):
        load(f"{spec}&num_classes=4&classes={tmp_path / 'c.txt'}")
    with pytest.raises(ModelError, match="untrained head"):
        load("timm:test_resnet?num_classes=3")


def test_timm_tells_unknown_names_failed_downloads_and_headless_models(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = _library("timm")
    with pytest.raises(ModelError, match=r"timm has no model 'resnet_50'.*Did you mean .*resnet50"):
        load("timm:resnet_50")
    headless = timm.create_model("test_resnet", num_classes=0)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: headless)
    with pytest.raises(ModelError, match="gives features and no classes"):
        load("timm:test_resnet?pretrained=false")

    def offline(*_: object, **__: object) -> nn.Module:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError, match=r"could not be downloaded .*no network.*'timm:test_resnet\?weights=PATH"):
        load("timm:test_resnet")
    with pytest.raises(ModelError, match="cannot be made: URLError"):
        load("timm:test_resnet?pretrained=false")


# ---------------------------------------------------------------------- torchvision


def test_torchvision_takes_everything_from_the_weights_own_settings() -> None:
    _library("torchvision")
    model = load("torchvision:resnet18?pretrained=false")
    assert model.name == "resnet18"
    assert model.preprocessing.size == (224, 224)
    assert model.preprocessing.crop == pytest.approx(224 / 256)
    assert model.preprocessing.interpolation == "bilinear"
    assert model.preprocessing.mean == (0.485, 0.456, 0.406)
    assert model.class_names[1] == "goldfish"
    assert find_layer(model).name == "layer4"


def test_torchvision_weights_from_a_file_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = _library("torchvision.models")
    state = models.squeezenet1_1(num_classes=4).state_dict()
    torch.save(state, tmp_path / "w.pth")
    model = load(f"torchvision:squeezenet1_1?weights={tmp_path / 'w.pth'}&num_classes=4")
    assert model.num_classes == 4

    def offline(url: str, *_: object, **settings: object) -> dict[str, torch.Tensor]:
        assert settings["weights_only"] is True
        raise urllib.error.URLError(url)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ModelError, match=r"could not be downloaded .*resnet50-0676ba61.*resnet50\?weights=PATH"):
        load("torchvision:resnet50?weights=IMAGENET1K_V1")
    with pytest.raises(ModelError, match=r"could not be downloaded .*resnet50-11ad3fa6"):
        load("torchvision:resnet50")


def test_torchvision_offers_classifiers_alone() -> None:
    _library("torchvision")
    with pytest.raises(ModelError, match=r"no image classifier 'resnet-18'.*Did you mean 'resnet18'"):
        load("torchvision:resnet-18")
    with pytest.raises(ModelError, match="no image classifier 'raft_small'"):
        load("torchvision:raft_small")


# ---------------------------------------------------------------------- transformers


def _vit(folder: Path, processor: Any = None, **settings: Any) -> Path:
    transformers = _library("transformers")
    _library("torchvision")  # where it is installed, the image processors use it
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        **{"id2label": {0: "ant", 1: "bee", 2: "cow"}, "label2id": {"ant": 0, "bee": 1, "cow": 2}, **settings},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    processor = processor or transformers.ViTImageProcessor(size={"height": 32, "width": 32}, resample=3)
    processor.save_pretrained(folder)
    return folder


def test_transformers_from_a_local_folder(tmp_path: Path) -> None:
    model = load(f"hf:{_vit(tmp_path / 'my vit')}")
    assert model.name == "my-vit"
    assert model.class_names == ("ant", "bee", "cow")
    assert model.preprocessing.size == (32, 32)
    assert model.preprocessing.mean == (0.5, 0.5, 0.5)
    assert model.preprocessing.std == (0.5, 0.5, 0.5)
    assert model.preprocessing.interpolation == "bicubic"
    assert model.preprocessing.fit == "squash"
    assert model.token_grid == (4, 4)
    layer = find_layer(model)
    assert (layer.layout, layer.grid) == ("tokens", (4, 4))
    assert layer.name.endswith("1")  # the last block but one: the head reads the class token
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.logits(x), model.module((x - 0.5) / 0.5).logits)


def test_transformers_preprocessing_is_what_the_processor_does(tmp_path: Path) -> None:
    transformers = _library("transformers")
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    model = load(f"hf:{_vit(tmp_path, processor)}")
    seen = model.preprocessing
    assert (seen.fit, seen.crop, seen.size) == ("crop", 0.8, (32, 32))
    assert seen.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073), abs=1e-5)
    picture = Image.new("RGB", (90, 70), (200, 100, 30))
    answer = processor(picture, return_tensors="pt")["pixel_values"]
    pixels = torch.tensor([200, 100, 30]).view(1, 3, 1, 1).expand(1, 3, 32, 32) / 255
    torch.testing.assert_close(model.normalise(pixels), answer, atol=2e-4, rtol=0)


def test_transformers_odd_rescaling_is_measured(tmp_path: Path) -> None:
    transformers = _library("transformers")
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, rescale_factor=1 / 127.5, image_mean=[1, 1, 1], image_std=[1, 1, 1]
    )
    seen = load(f"hf:{_vit(tmp_path, processor)}").preprocessing
    assert seen.mean == (0.5, 0.5, 0.5)
    assert seen.std == (0.5, 0.5, 0.5)


def test_transformers_names_that_are_placeholders_are_left_out(tmp_path: Path) -> None:
    placeholders = {"id2label": {i: f"LABEL_{i}" for i in range(3)}, "label2id": {}}
    assert load(f"hf:{_vit(tmp_path, **placeholders)}").class_names == ("0", "1", "2")


def test_transformers_failures_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _vit(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"cannot be loaded: .*hf:PATH/TO/FOLDER"):
        load("hf:nobody/nothing-here")
    assert load(f"hf:{folder}?pretrained=false").num_classes == 3

    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if "classifier" not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"no trained weights for classifier.bias"):
        load(f"hf:{folder}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"The folder needs config.json"):
        load(f"hf:{folder}")
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin would need unpickling"):
        load(f"hf:{folder}")


def test_transformers_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    folder = _vit(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "made_up", "auto_map": {"AutoConfig": "own.C", "AutoModelForImageClassification": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'trapped')!r}, 'w')\n")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(f"hf:{folder}")
    assert not (tmp_path / "trapped").exists()


# ---------------------------------------------------------------------- exported programs


def _export(path: Path, batch: int | Dim, net: nn.Module | None = None) -> Path:
    shapes = None if isinstance(batch, int) else {"input": {0: batch}}
    example = torch.rand(batch if isinstance(batch, int) else 3, 3, 16, 16)
    program = torch.export.export(net or tiny(), (example,), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


@pytest.mark.parametrize("batch", [1, 4, Dim("n", min=1, max=64), Dim("n", min=2, max=5), Dim("n")])
def test_an_exported_program_answers_for_any_number_of_images(tmp_path: Path, batch: int | Dim) -> None:
    path = _export(tmp_path / "net.pt2", batch)
    model = load(f"pt2:{path}?mean=0.5&std=0.25")
    assert model.name == "net"
    assert model.preprocessing.size == (16, 16)
    assert model.capabilities == {GRADIENTS}
    assert model.fixed_batch == (batch if isinstance(batch, int) else None)
    assert model.num_classes == 5
    for count in (1, 3, 7):
        x = torch.rand(count, 3, 16, 16)
        torch.testing.assert_close(model.logits(x), tiny()((x - 0.5) / 0.25))
    x = torch.rand(3, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.logits(x).sum(), x)
    assert gradient.shape == x.shape
    assert gradient.abs().sum() > 0


def test_an_exported_program_has_no_layers(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="gives no access to its layers"):
        find_layer(load(f"pt2:{_export(tmp_path / 'net.pt2', 2)}?mean=0&std=1"))


def test_an_exported_program_in_a_card(tmp_path: Path) -> None:
    _export(tmp_path / "net.pt2", 2)
    (tmp_path / "mine.toml").write_text(
        'pt2 = "net.pt2"\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n'
        'classes = ["a", "b", "c", "d", "e"]\ncrop = 0.9'
    )
    model = load(str(tmp_path / "mine.toml"))
    assert model.name == "mine"
    assert model.class_names == ("a", "b", "c", "d", "e")
    assert model.preprocessing.crop == 0.9
    assert model.fixed_batch == 2


def test_fingerprints_of_programs_differ_by_their_graphs(tmp_path: Path) -> None:
    other = tiny()
    other[2] = nn.Tanh()
    specs = [f"pt2:{_export(tmp_path / n, 2, net)}?mean=0&std=1" for n, net in (("a.pt2", tiny()), ("b.pt2", other))]
    assert load(specs[0]).fingerprint() == load(specs[0]).fingerprint()
    assert load(specs[0]).fingerprint() != load(specs[1]).fingerprint()


def test_modes_of_a_program_only_set_the_flag(tmp_path: Path) -> None:
    module = ExportedModule(torch.export.load(_export(tmp_path / "net.pt2", 2)))
    assert not module.eval().training
    assert module.train().training


def test_programs_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    path = _export(tmp_path / "net.pt2", 2)
    with pytest.raises(ModelError, match="no exported program"):
        load("pt2:absent.pt2")
    (tmp_path / "broken.pt2").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="is no exported program that can be read"):
        load(f"pt2:{tmp_path / 'broken.pt2'}")
    with pytest.raises(ModelError, match=r"'size' is \(20, 20\), but the program was exported for \(16, 16\)"):
        load(f"pt2:{path}?size=20&mean=0&std=1")
    with pytest.warns(SalienceWarning, match="neither 'mean' nor 'std'"):
        load(f"pt2:{path}")
    for name, net in (("dropout", nn.Sequential(nn.Dropout(), tiny())), ("statistics", tiny().train())):
        trained = _export(tmp_path / f"{name}.pt2", 2, net.train())
        with pytest.raises(ModelError, match="exported in training mode"):
            load(f"pt2:{trained}?mean=0&std=1")
    grey = torch.export.export(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), (torch.rand(2, 1, 4, 4),))
    torch.export.save(grey, tmp_path / "grey.pt2")
    with pytest.raises(ModelError, match="takes 1 channels; three are needed"):
        load(f"pt2:{tmp_path / 'grey.pt2'}?mean=0&std=1")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("trapped", "w"))


@pytest.mark.parametrize("where", ["inputs", "weights", "objects"])
def test_programs_that_would_need_unpickling_are_refused(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _export(tmp_path / "net.pt2", 2)
    bad = tmp_path / "bad.pt2"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if where == "inputs" and name.endswith("sample_inputs/model.pt"):
                content = pickle.dumps(Trap(), protocol=2)
            if where == "weights" and name.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
            if where == "weights" and name.endswith("weights/weight_0"):
                content = pickle.dumps(Trap(), protocol=2)
            if where == "objects" and name.endswith("constants_config.json"):
                content = b'{"config": {"x": {"path_name": "opaque_obj_0", "use_pickle": true}}}'
            target.writestr(name, content)
    with pytest.raises(ModelError, match=r"would need unpickling.*refused"):
        refuse_pickles(bad, "test")
    with pytest.raises(ModelError, match="would need unpickling"):
        load(f"pt2:{bad}?mean=0&std=1")
    assert not (tmp_path / "trapped").exists()
