"""The options that may stand behind ``?`` in a spec, with their meaning; shared by several adapters."""

from __future__ import annotations

# what a bare module or program does not say of itself
DESCRIBED = {
    "size": "input side, or HEIGHTxWIDTH",
    "mean": "three numbers between commas, or one for all",
    "std": "three numbers between commas, or one for all",
    "interpolation": "bicubic, bilinear, nearest, lanczos or box",
    "fit": "crop or squash",
    "crop": "share that the centre crop keeps",
    "classes": "path of the class names, .json or .txt",
    "token_grid": "ROWSxCOLUMNS of patch tokens",
}

# what is asked of a model of which only outputs are known
OUTPUTS = {
    "scores": "logits or probabilities: what the model returns",
    "output": "name of the output with the scores",
}

# what a library of architectures with downloaded weights can be told
HUB = {
    "pretrained": "true, or false for random weights",
    "weights": "path of a .safetensors, .pt, .pth or .th file, in place of a download",
    "num_classes": "number of classes of those weights",
    "classes": "path of their names, .json or .txt",
}
