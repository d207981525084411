"""What the documents show works: worked examples train and evaluate, commands, keys and names are there."""

import ast
import functools
import importlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import train_net
import yaml
from detectron2.config import CfgNode
from PIL import Image

from segzoo.cli.commands import COMMANDS
from segzoo.cli.main import load
from segzoo.cli.prepare import build_dataset_parser
from segzoo.config.load import new_config
from segzoo.config.renamed.table import CONVERTED
from segzoo.model_zoo import load_config
from segzoo.model_zoo.registry import known_models
from segzoo.modeling.protocols.build import TTA_NAME
from segzoo.modeling.protocols.presets import PRESETS
from tests.registrations import forgotten

REPOSITORY = Path(__file__).resolve().parents[2]

DOCUMENTS = ["README.md", "GETTING_STARTED.md", "COMING_FROM.md", "INSTALL.md", "datasets/README.md"]
GUIDES = ["GETTING_STARTED.md", *(f"docs/{file.name}" for file in sorted(REPOSITORY.glob("docs/*.md")))]
DOCUMENTS += GUIDES[1:]
METHODS = sorted(REPOSITORY.glob("projects/*/README.md"))
DOCUMENTS += [file.relative_to(REPOSITORY).as_posix() for file in METHODS]
TEXTS = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in DOCUMENTS}
TOOLS = sorted([*REPOSITORY.glob("tools/*.py"), *REPOSITORY.glob("datasets/*.py")])
SUBCOMMANDS = sorted((REPOSITORY / "segzoo" / "cli").rglob("*.py"))
EXAMPLE = re.compile(r"```(?:yaml|python)\n# file: (\S+)\n(.*?)```", re.DOTALL)
EXAMPLES = dict(found for name in GUIDES for found in EXAMPLE.findall(TEXTS[name]))
CONFIGS = sorted(Path(name).stem for name in EXAMPLES if name.startswith("configs/"))
# A command in a block of a page, or the first words of a table's cell.
PROGRAM = rf"(?:python (?:tools|datasets)/\w+\.py|segzoo (?:{'|'.join(COMMANDS)})\b)"
COMMAND = re.compile(rf"(?:^ *|`)({PROGRAM}[^`\n]*)", re.MULTILINE)
KEY = re.compile(r"\b((?:MODEL|SOLVER|INPUT|TEST|DATASETS|DATALOADER)(?:\.[A-Z0-9_]+)+)\b")
# Named by a page because there is no such key here.
FOREIGN_KEYS = {"DATASETS.VAL", "DATASETS.ROOT", *CONVERTED}
# That an example adds.
ADDED_KEYS = {key for text in EXAMPLES.values() for key in re.findall(r"cfg\.([A-Z]+\.[A-Z_.]+) =", text)}


def draw_roads(folder, count):
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in (split, f"{split}_labels"):
            (folder / kind).mkdir(parents=True)
        for index in range(count):
            horizon, verge = generator.integers(20, 40), generator.integers(10, 30)
            label = np.full((64, 96), 2, np.uint8)
            label[horizon:] = 0
            label[horizon:, :verge] = 1
            label[0, 0] = 255
            colors = np.array([[90, 90, 90], [40, 160, 40], [120, 180, 250]])[np.minimum(label, 2)]
            image = np.clip(colors + generator.normal(0, 20, colors.shape), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / split / f"{index}.jpg")
            Image.fromarray(label).save(folder / f"{split}_labels" / f"{index}.png")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("getting_started")
    shutil.copytree(REPOSITORY / "configs" / "_base_", folder / "configs" / "_base_")
    for name, text in EXAMPLES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    draw_roads(folder / "country_roads", 4)
    with forgotten():
        yield folder


@pytest.mark.parametrize("config", CONFIGS)
def test_the_example_trains_and_evaluates(workspace, monkeypatch, config):
    monkeypatch.chdir(workspace)  # where my_backbone.py lies
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(workspace))
    output = workspace / "output" / config
    overrides = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    overrides += ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "OUTPUT_DIR", str(output)]
    status = train_net.main(["--config-file", f"configs/semantic/country_roads/{config}.yaml", *overrides])
    assert status == 0
    results = json.loads((output / "inference" / "results.json").read_text())
    assert '"mIoU"' in json.dumps(results)
    assert (output / "model_final.pth").is_file()


def test_there_are_examples():
    assert len(CONFIGS) >= 5


@functools.cache
def flags_of(tool: str) -> set[str]:
    """The flags that a tool's source adds, by itself or by what tools share."""
    shared = "segzoo/cli/parser.py"
    sources = "".join((REPOSITORY / name).read_text() for name in (tool, shared))
    return {"--help", *re.findall(r"\"(--[a-z][a-z-]+)\"", sources)}


def help_of(tool: Path) -> str:
    """What a tool shows of its use: its docstring, and the examples after the flags."""
    tree = ast.parse(tool.read_text(encoding="utf-8"))
    found = [ast.get_docstring(tree) or ""]
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            parts = [part for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
            found += [str(part.value) for part in parts if node.targets[0].id == "EXAMPLES"]
    of_module = {command.module: name for name, command in COMMANDS.items()}
    program = f"segzoo {of_module[tool.stem]}" if tool in SUBCOMMANDS and tool.stem in of_module else ""
    return "\n".join(found).replace("%(prog)s", program or f"python {tool.relative_to(REPOSITORY)}")


def commands() -> list[str]:
    """The commands of all documents, with lines that end in a backslash joined."""
    found = []
    for text in [*TEXTS.values(), *map(help_of, [*TOOLS, *SUBCOMMANDS])]:
        found += COMMAND.findall(re.sub(r" *\\\n *", " ", text))
    return sorted({re.sub(r"\s+#.*", "", command).strip() for command in found})


@pytest.mark.parametrize("command", commands())
def test_a_command_has_a_tool_its_flags_its_configuration_and_its_keys(command, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    words = shlex.split(command)
    subcommand = words[1:] if words[0] == "segzoo" else run_by(REPOSITORY / words[1])
    if subcommand:
        check_words(subcommand if words[0] == "segzoo" else [*subcommand, *words[2:]])
    else:
        check_flags(words)
    if "--config-file" not in words[:-1] or "DATASETS.FILES" in words or "--data" in words:
        return  # Files that a user has still to write cannot be read.
    position = words.index("--config-file") + 1
    config, rest = words[position], words[position + 1 :]
    if "/" not in config:
        return  # Any configuration.
    starts = [index for index, word in enumerate(rest) if KEY.fullmatch(word) or word == "OUTPUT_DIR"]
    overrides = rest[min(starts, default=len(rest)) :]
    assert load_config(config, overrides)


def run_by(script: Path) -> list[str]:
    """The words of the sub-command of segzoo that a script stands for; none for a tool of its own."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_script":
            return [argument.value for argument in node.args]
    return []


def check_words(words: list[str]) -> None:
    """The sub-command's parser takes the words; names in capitals stand for any."""
    name, rest = words[0], words[1:]
    build_parser = load(name).build_parser
    if name == "prepare" and rest and not rest[0].startswith("-"):
        name, rest = rest[0], rest[1:]
        if name.isupper():
            return
        build_parser = functools.partial(build_dataset_parser, name)
    elif name == "convert-data" and rest and not rest[0].startswith("-"):
        conversion = rest[0].replace("-", "_")
        build_parser = importlib.import_module(f"segzoo.cli.convert_data.{conversion}").build_parser
        rest = rest[1:]
    # Dataset files that are yet to be written; an option that is spoken of.
    if "--data" in rest or all(word.startswith("--") for word in rest):
        flags = {word for word in rest if re.fullmatch(r"--[a-z][a-z-]+", word)}
        assert flags <= build_parser()._option_string_actions.keys()
    else:
        build_parser().parse_args(rest)  # or it exits


def check_flags(words: list[str]) -> None:
    """The tool's own command line takes the words; dataset files that they name are yet to be written."""
    module = importlib.import_module(Path(words[1]).stem)
    parse = getattr(module, "parse_arguments", getattr(module, "parse", None))
    if parse is None or module.__name__ == "benchmark" or "--data" in words:
        flags = {word for word in words if re.fullmatch(r"--[a-z][a-z-]+", word)}
        assert flags <= flags_of(words[1])
    elif "--help" not in words:
        parse(words[2:])  # or it exits


def test_commands_are_found():
    assert len(commands()) > 80


def known_keys(node: CfgNode, prefix: str = "") -> set[str]:
    keys = set()
    for key, value in node.items():
        keys.add(prefix + key)
        if isinstance(value, CfgNode):
            keys |= known_keys(value, f"{prefix}{key}.")
    return keys


@pytest.mark.parametrize("document", DOCUMENTS)
def test_keys_exist(document):
    assert set(KEY.findall(TEXTS[document])) - known_keys(new_config()) - FOREIGN_KEYS - ADDED_KEYS == set()


def test_the_table_of_datasets_is_complete_and_has_the_published_counts():
    rows = {}
    for line in TEXTS["datasets/README.md"].splitlines():
        names, _, rest = line.removeprefix("|").partition("|")
        for template in re.findall(r"`(\w*\{[\w,]+\}\w*)`", names) if line.startswith("|") else []:
            before, choices, after = re.fullmatch(r"(\w*)\{([\w,]+)\}(\w*)", template).groups()
            rows.update({f"{before}{choice}{after}": rest for choice in choices.split(",")})
    for file in (REPOSITORY / "segzoo" / "data" / "catalog").glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        for name in content["splits"]:
            assert name in rows
            count = content.get("image_counts", {}).get(name)
            assert count is None or f"{count:,}" in rows[name]


def test_the_page_of_methods_names_every_method_file():
    files = {file.stem for file in (REPOSITORY / "configs" / "_base_" / "methods").glob("*.yaml")}
    pages = ["docs/methods.md", *(file.relative_to(REPOSITORY).as_posix() for file in METHODS)]
    assert files - {name for page in pages for name in re.findall(r"`(\w+)`", TEXTS[page])} == set()


def test_the_readme_is_short_and_its_models_are_in_the_zoo():
    assert TEXTS["README.md"].count("\n") <= 150
    rows = re.findall(
        r"^\| .* \| `(\w+/\w+/\w+)` \| (.+) \| (\d+) M \| (.+) \|$", TEXTS["README.md"], re.MULTILINE
    )
    assert len(rows) >= 5
    for name, published, params, license in rows:
        info = known_models()[name]
        assert round(info.reproduced.params) == int(params)
        assert license in (info.license.removeprefix("NVIDIA, "), "none published")
        if published != "not published":
            metric, value = published.split()
            assert info.value(metric) == float(value)


def test_the_page_of_protocols_names_every_one():
    assert {*PRESETS, TTA_NAME} - set(re.findall(r"`(\w+)`", TEXTS["docs/protocols.md"])) == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings(document):
    folder = (REPOSITORY / document).parent
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", TEXTS[document]):
        path, _, anchor = target.partition("#")
        file = (folder / path).resolve() if path else REPOSITORY / document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#{1,4} (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target
