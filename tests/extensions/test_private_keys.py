"""A private package's own keys, with rules for their values: in files, overrides, bases and checkpoints."""

import pytest
import torch
from detectron2.config import get_cfg

from segzoo.config import rules
from segzoo.config.load import read_config
from segzoo.engine import Predictor
from segzoo.engine.model_config import model_config
from segzoo.engine.saved_config import saved_config
from segzoo.utils.errors import InputError

KEYS = """
from detectron2.config import CfgNode
from segzoo.config import COUNT, SHARE, Rule, one_of, register_config


@register_config(
    rules={
        "MODEL.UNET.DEPTH": COUNT,
        "MODEL.UNET.MERGE": one_of("concat", "add"),
        "MODEL.UNET.KEPT": SHARE,
        "MODEL.UNET.WIDTHS": Rule(
            "expected widths in rising order", lambda value: sorted(value) == list(value)
        ),
    }
)
def add_unet_config(cfg):
    cfg.MODEL.UNET = CfgNode()
    cfg.MODEL.UNET.DEPTH = 4
    cfg.MODEL.UNET.MERGE = "concat"
    cfg.MODEL.UNET.KEPT = 0.5
    cfg.MODEL.UNET.WIDTHS = (16, 32)
"""


NO_VALUE = "MODEL.UNET.KEPT has no value; give it one such as 0.5, or leave the key out"
HEAD = """
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn
from segzoo.modeling.per_pixel.head import PixelHead


@SEM_SEG_HEADS_REGISTRY.register()
class DeepHead(PixelHead):
    @configurable
    def __init__(self, *, depth, **shared):
        super().__init__(**shared)
        widths = [self.in_channels("res5")] + [self.channels] * depth
        self.layers = nn.Sequential(*(self.conv(a, b, 3) for a, b in zip(widths, widths[1:])))
        self.predictor = self.classifier(self.channels)

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {**super().from_config(cfg, input_shape), "depth": cfg.MODEL.UNET.DEPTH}

    def forward(self, features):
        return {"logits": self.predictor(self.layers(features["res5"]))}
"""


@pytest.mark.parametrize("where", ["file", "base", "command line"])
def test_its_keys_are_known_wherever_imports_is_set(package, where):
    package.write(KEYS, "keys")
    package.write("from . import keys")
    imports = ["IMPORTS", f'("{package.name}",)']
    file = package.config("MODEL: {UNET: {DEPTH: 3}}", imports=where == "file")
    if where == "base":
        (package.folder / "base.yaml").write_text(f'IMPORTS: ["{package.name}"]\n')
    # The override of IMPORTS may follow those of its keys.
    words = ["MODEL.UNET.MERGE", "add", *(imports if where == "command line" else [])]
    cfg = read_config(file, words)
    assert (cfg.MODEL.UNET.DEPTH, cfg.MODEL.UNET.MERGE, cfg.MODEL.UNET.KEPT) == (3, "add", 0.5)
    (package.folder / "saved.yaml").write_text(saved_config(cfg))
    assert read_config(package.folder / "saved.yaml").MODEL.UNET == cfg.MODEL.UNET


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.UNET.DEPTH", "0", "MODEL.UNET.DEPTH 0: expected at least 1"),
        ("MODEL.UNET.DEPTH", "deep", "MODEL.UNET.DEPTH is deep (str); expected an integer, such as 4"),
        ("MODEL.UNET.MERGE", "ad", "MODEL.UNET.MERGE 'ad': expected concat or add; did you mean add?"),
        ("MODEL.UNET.WIDTHS", "(3, 2)", "MODEL.UNET.WIDTHS (3, 2): expected widths in rising order"),
        ("MODEL.UNET.WIDTHS", "(3, 'a')", "MODEL.UNET.WIDTHS (3, 'a'): expected widths in rising order"),
        (
            "MODEL.UNET.KEPT",
            "None",
            NO_VALUE,
        ),
        ("MODEL.UNET.DETPH", "2", "unknown key MODEL.UNET.DETPH; did you mean MODEL.UNET.DEPTH?"),
    ],
)
def test_a_wrong_value_is_explained_as_those_of_other_keys(package, key, value, message):
    package.write(KEYS)
    with pytest.raises(InputError) as caught:
        read_config(package.config(), [key, value])
    assert str(caught.value) == message


def test_a_rule_for_a_key_that_is_not_added_is_an_error(package):
    package.write(KEYS.replace('"MODEL.UNET.DEPTH": COUNT', '"MODEL.UNET.DETPH": COUNT'))
    with pytest.raises(
        InputError, match=r"registers a rule for unknown key MODEL\.UNET\.DETPH; did you mean"
    ):
        read_config(package.config())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("register_config(lambda cfg: None)", "a lambda in private_"),
        ("register_config(functools.partial(setattr, name='A', value=1))", "partial; define one with def"),
    ],
)
def test_a_function_that_adds_keys_needs_a_name(package, line, found):
    package.write(f"import functools\nfrom segzoo.config import register_config\n{line}")
    with pytest.raises(InputError, match=rf"needs a named function, found {found}"):
        read_config(package.config())


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("    cfg.MODEL.UNET.DEPTH = 5", "DEPTH is added by {0}.keys and changed by {1}"),
        ("    cfg.MODEL.UNET.DEPTH = 4.0", "DEPTH is added by {0}.keys and changed by {1}"),
        ("    cfg.MODEL.UNET = CfgNode({'WIDTH': 1})", "DEPTH is added by {0}.keys and removed by {1}"),
        ("    cfg.MODEL.UNET.DEPTH = 4\n    cfg.MODEL.UNET.OTHER = 1", ""),
        ("    cfg.MODEL.MASK_ON = True\n    cfg.MODEL.EMPTY.ONE = 1", ""),
    ],
)
def test_two_packages_that_add_one_key_are_named(package, lines, what):
    other = f"{package.name}_too"
    package.write(KEYS + "    cfg.MODEL.EMPTY = CfgNode()\n", "keys")
    package.write("from . import keys")
    (package.folder / f"{other}.py").write_text(
        "from detectron2.config import CfgNode\nfrom segzoo.config import register_config\n\n\n"
        f"@register_config\ndef add(cfg):\n{lines}\n"
    )
    words = ["IMPORTS", f"('{package.name}', '{other}')"]
    if not what:
        assert read_config(package.config(), words).MODEL.UNET.DEPTH == 4
        return
    with pytest.raises(InputError) as caught:
        read_config(package.config(), words)
    assert str(caught.value) == (
        f"MODEL.UNET.{what.format(package.name, other)}; "
        "give one of them another name, or set the value in a YAML file"
    )


def test_a_configuration_is_saved_without_keys_of_modules_that_it_does_not_import(package):
    """So it is valid in a process that does not know them."""
    package.write(KEYS)
    read_config(package.config())
    other = read_config(None)
    assert "UNET" in other.MODEL
    assert "UNET" not in saved_config(other)
    other.MODEL.UNET.DEPTH = 7  # explicit values are kept
    assert "DEPTH: 7" in saved_config(other)
    assert "DEPTH: 4" in saved_config(read_config(package.config()))


def test_a_section_that_another_package_fills_is_saved(package):
    """One imports the other, so only one is named in IMPORTS."""
    other = f"{package.name}_other"
    start = "from detectron2.config import CfgNode\nfrom segzoo.config import register_config\n"
    section = "@register_config\ndef add_section(cfg):\n    cfg.MODEL.SHARED = CfgNode()\n"
    (package.folder / f"{other}.py").write_text(start + section)
    value = "@register_config\ndef add_value(cfg):\n    cfg.MODEL.SHARED.DEPTH = 4\n"
    package.write(f"import {other}\n{start}{value}")
    cfg = read_config(package.config("MODEL: {SHARED: {DEPTH: 3}}"))
    assert "DEPTH: 3" in saved_config(cfg)


def test_every_project_declares_the_rules_of_its_own_keys():
    sections = {key.split(".")[1] for key in rules.RULES if key.startswith("MODEL.")}
    # The others are Detectron2's sections and those that several methods read.
    assert sections - set(get_cfg().MODEL) == {"AUX_HEAD", "COMPILE", "MASK_FORMER"}
    for key in ("PSPNET.BINS", "DEEPLABV3.DILATIONS", "BISENET.SPATIAL_CHANNELS", "JPU.CONVS_DIM"):
        with pytest.raises(InputError, match=rf"MODEL\.{key} .*: expected"):
            read_config(None, [f"MODEL.{key}", "(0,)" if "CONVS" not in key else "0"])


def test_a_checkpoint_opens_with_the_keys_of_its_package(package, train, shapes):
    package.write(KEYS + HEAD)
    output = train(package.config("MODEL: {UNET: {DEPTH: 2}, SEM_SEG_HEAD: {NAME: DeepHead}}"))
    assert "total_loss" in (output / "metrics.json").read_text()
    cfg = model_config(None, ["MODEL.WEIGHTS", str(output / "model_final.pth")])
    assert cfg.MODEL.UNET.DEPTH == 2
    predictor = Predictor(output / "model_final.pth")
    assert len(predictor.model.sem_seg_head.layers) == 2
    result = predictor(torch.zeros(3, 48, 48, dtype=torch.uint8))
    assert result["sem_seg"].shape[1:] == (48, 48)
