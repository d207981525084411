"""Tables of the zoo: errors in one line; how they are shown, counted and edited."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from zoo_maintenance import tables
from zoo_maintenance.documents import INDEX, OVERVIEW_ROWS, PAGES, documents
from zoo_maintenance.editing import write_reproduced

from segzoo import model_zoo
from segzoo.cli import zoo
from segzoo.model_zoo import load_config, registry
from segzoo.model_zoo.measure import counted_size
from segzoo.model_zoo.records import Measured
from segzoo.model_zoo.registry import known_models, sections
from segzoo.model_zoo.table_reader import read_table
from segzoo.utils.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "semantic/camvid/segformer_mit_b0"

TABLE = f"""\
# Where the numbers come from.
method: Method
paper: https://paper
repository: https://code
readme: projects/segformer/README.md
weights_license: MIT
url_prefix: https://host/

sections:
  - title: CamVid, semantic   # a comment
    metrics:
      mIoU: 101 validation images, single scale
    models:
      {NAME}:  # the first
        backbone: MiT-B0
        pretraining: IN-1k
        schedule: 10 epochs
        mIoU: 70.25
        params: 3.8
        file: a/model_0123ab.pkl
        # no note

      semantic/camvid/maskformer_r18:
        backbone: R18
        pretraining: none
        schedule: 20 epochs
        official_code: {{params: 24.7, gflops: 1.5, size: [96, 128]}}
        note: segzoo's own"""


def table(tmp_path: Path, *replacements: tuple[str, str]) -> Path:
    text = TABLE
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    file = tmp_path / "method.yaml"
    file.write_text(text)
    return file


def read(file: Path) -> dict[str, registry.WeightsInfo]:
    return {info.name: info for section in read_table(file) for info in section.models}


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small_zoo(tmp_path, monkeypatch) -> Path:
    """The zoo has only TABLE, in a repository of its own."""
    file = table(tmp_path)
    monkeypatch.setattr(registry, "TABLES", tmp_path)
    known_models.cache_clear()
    sections.cache_clear()
    yield file
    monkeypatch.undo()
    known_models.cache_clear()
    sections.cache_clear()


def test_row_has_link_hash_and_what_its_file_says_for_all(tmp_path):
    info = read(table(tmp_path))[NAME]
    assert info.url == "https://host/a/model_0123ab.pkl"
    assert info.md5_prefix == "0123ab"
    assert (info.method, info.license, info.params) == ("Method", "MIT", 3.8)
    assert info.value("mIoU") == 70.25
    assert info.value("PQ") is None


def test_the_authors_training_time_is_a_column_where_they_give_one(tmp_path):
    given = ("        params: 3.8", "        params: 3.8\n        train_time: 0.584\n        train_memory: 5")
    on = ("url_prefix:", "trained_on: 8 V100 GPUs\nurl_prefix:")
    (section,) = read_table(table(tmp_path, given, on))
    assert (section.models[0].train_time, section.models[0].train_memory) == (0.584, 5)
    *_, head, notes = tables.section_text(section).split("\n\n")
    header, _, *rows = ([one.strip() for one in line.split("|")] for line in head.splitlines())
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    assert [one["training s/iteration, paper"] for one in cells] == ["0.584", "-"]
    assert [one["training GB per GPU, paper"] for one in cells] == ["5.0", "-"]
    assert "- training: on 8 V100 GPUs." in notes
    assert [one.trained_on for one in section.models] == ["8 V100 GPUs", ""]
    (plain,) = read_table(table(tmp_path, on))
    assert "training" not in tables.section_text(plain).replace("pre-training", "")
    with pytest.raises(InputError, match="has a train_time; say on which GPUs in trained_on"):
        list(read_table(table(tmp_path, given)))


def test_semsegs_training_times_are_hours(capsys):
    # The readme of github.com/hszhao/semseg, "Training Time".
    hours = {
        "ade20k": {"pspnet": (14, 20), "psanet": (14, 20)},
        "voc_2012": {"pspnet": (3.3, 5), "psanet": (3.3, 5)},
        "cityscapes": {"pspnet": (7, 10), "psanet": (7.5, 10.5)},
    }
    epochs = {"ade20k": 100, "voc_2012": 50, "cityscapes": 200}
    for dataset, methods in hours.items():
        for method, values in methods.items():
            for backbone, value in zip(("r50", "r101"), values, strict=True):
                info = known_models()[f"semantic/{dataset}/{method}_{backbone}_v1s_{epochs[dataset]}ep"]
                assert (info.train_hours, info.train_time, info.train_memory) == (value, None, None)
                assert "8 GeForce RTX 2080 Ti" in info.trained_on
    assert zoo.main(["semantic/cityscapes/psanet_r101_v1s_200ep"]) == 0
    assert "trained in    10.5 h in all, on a server with 8 GeForce RTX 2080 Ti" in capsys.readouterr().out


def test_sections_and_rows_restate_what_differs(tmp_path):
    section = (
        "    metrics:",
        "    source: other\n    weights_license: BSD\n    paper: https://p\n    metrics:",
    )
    row = ("        backbone: MiT-B0", "        weights_license: none\n        backbone: MiT-B0")
    rows = read(table(tmp_path, section, row))
    assert rows[NAME].license == "none"
    assert rows["semantic/camvid/maskformer_r18"].license == "BSD"
    assert {info.paper for info in rows.values()} == {"https://p"}
    protocol = ("        mIoU: 70.25", "        mIoU: 70.25\n        metrics: {mIoU: size not stated}")
    assert read(table(tmp_path, protocol))[NAME].published[0].protocol == "size not stated"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("paper: https://paper\n", "", "paper is missing"),
        ("weights_license: MIT", "weight_license: MIT", "weights_license is missing"),
        ("method: Method", "method: Method\nyear: 2021", "unknown key year"),
        (
            "    metrics:",
            "    metric: 5\n    metrics:",
            "section CamVid, semantic: unknown key metric; did you",
        ),
        ("single scale", "single scale: again", "not valid YAML"),
        ("mIoU: 101 validation images, single scale", "mIoU:", "mIoU has no protocol"),
        ("        backbone: MiT-B0\n", "", f"{NAME}: backbone is missing"),
        ("        mIoU: 70.25", "        mIoUs: 70.25", f"{NAME}: unknown key mIoUs; did you mean mIoU"),
        (
            "        mIoU: 70.25",
            "        metrics: {mIoU: flip}",
            "metrics: mIoU is not published in this row",
        ),
        ("mIoU: 70.25", "mIoU: high", "mIoU is 'high'; expected a number"),
        ("size: [96, 128]", "size: 96", r"official_code: size is 96; expected \[height, width\]"),
        (", size: [96, 128]", "", "official_code: size is missing"),
        (
            "note: segzoo",
            "only_official: {head.spare: 1.5}  # segzoo",
            "head.spare is 1.5; expected a number of",
        ),
        ("file: a/", "url: https://x\n        file: a/", "has file and url"),
        ("url_prefix: https://host/\n", "", "a/model_0123ab.pkl is not a web address"),
        ("semantic/camvid/maskformer_r18", "semantic/ade20k/maskformer_r50", "several tasks or datasets"),
        ("semantic/camvid/maskformer_r18", NAME, "is repeated"),
        ("backbone: MiT-B0", "backbone: MiT: B0", "not valid YAML"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line_that_names_file_and_key(tmp_path, old, new, message):
    file = table(tmp_path, (old, new))
    with pytest.raises(InputError, match=message) as error:
        read(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_a_name_in_two_tables_is_refused(small_zoo):
    (small_zoo.parent / "other.yaml").write_text(small_zoo.read_text())
    with pytest.raises(InputError, match=f"{NAME} has two rows"):
        known_models()


def test_a_count_is_written_into_the_row_and_nothing_else_changes(tmp_path):
    file = table(tmp_path)
    before = file.read_text().splitlines()
    assert write_reproduced(file, NAME, Measured(3.751, 12.04, (32, 64), {}))
    after = file.read_text().splitlines()
    new = [line for line in after if line not in before]
    assert new == ["        reproduced: {params: 3.75, gflops: 12.0, size: [32, 64]}"]
    assert [line for line in after if line not in new] == before
    assert read(file)[NAME].reproduced == Measured(3.75, 12.0, (32, 64), {})


def test_a_count_replaces_the_older_one_and_keeps_its_comment_and_metrics(tmp_path):
    old = "        reproduced: {params: 9, gflops: 9, size: [9, 9], metrics: {mIoU: 70.1}}  # by hand"
    file = table(tmp_path, ("        mIoU: 70.25", f"{old}\n        mIoU: 70.25"))
    assert write_reproduced(file, NAME, Measured(1.0, 0.5, (32, 64), {"mIoU": 70.1}))
    line = (
        "        reproduced: {params: 1.00, gflops: 0.500, size: [32, 64], metrics: {mIoU: 70.1}}  # by hand"
    )
    assert (
        file.read_text()
        == table(tmp_path, ("        mIoU: 70.25", f"{line}\n        mIoU: 70.25")).read_text()
    )
    assert not write_reproduced(file, NAME, Measured(1.0, 0.5, (32, 64), {"mIoU": 70.1}))


def test_a_count_over_several_lines_is_replaced_as_a_whole(tmp_path):
    old = "        reproduced:\n          params: 9\n          gflops: 9\n          size: [9, 9]"
    file = table(tmp_path, ("        mIoU: 70.25", f"{old}\n        mIoU: 70.25"))
    write_reproduced(file, NAME, Measured(1.0, 2.0, (32, 64), {}))
    assert read(file)[NAME].reproduced == Measured(1.0, 2.0, (32, 64), {})
    assert read(file)[NAME].value("mIoU") == 70.25


def test_a_row_on_one_line_is_left_to_its_author(tmp_path):
    file = tmp_path / "method.yaml"
    row = f"      {NAME}: {{backbone: B, pretraining: P, schedule: S}}\n"
    file.write_text(TABLE.split(f"      {NAME}")[0] + row)
    text = file.read_text()
    with pytest.raises(InputError, match=f"found no line '{NAME}' to write under"):
        write_reproduced(file, NAME, Measured(1.0, 2.0, (32, 64), {}))
    assert file.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["method.yaml"]


def test_measure_counts_the_missing_rows_at_their_sizes(small_zoo, monkeypatch, capsys):
    small_zoo.write_text(small_zoo.read_text().replace("        mIoU: 70.25", "        size: [64, 96]"))
    known_models.cache_clear()
    sections.cache_clear()
    tool = load_tool("make_model_zoo")
    monkeypatch.setattr(tool, "ROOT", small_zoo.parent)
    monkeypatch.setattr(tool, "TABLES", small_zoo.parent)
    assert tool.main(["--measure", "--missing"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith(f"1/2 {NAME}: 3.72 M")
    reproduced = {name: info.reproduced for name, info in read(small_zoo).items()}
    assert reproduced[NAME].size == (64, 96)
    assert reproduced["semantic/camvid/maskformer_r18"].size == (96, 128)
    model = model_zoo.get(NAME)
    parameters = sum(value.numel() for value in model.parameters())
    assert reproduced[NAME].params == pytest.approx(parameters / 1e6, abs=0.006)
    assert "3.72" in (small_zoo.parent / PAGES / "camvid_semantic.md").read_text()

    assert tool.main(["--measure", "--missing"]) == 0
    assert NAME not in capsys.readouterr().out
    assert tool.main(["--measure", NAME[:-1]]) == 2
    assert f"did you mean {NAME}?" in capsys.readouterr().err


def test_check_says_which_documents_are_out_of_date(small_zoo, monkeypatch, capsys):
    tool = load_tool("make_model_zoo")
    root = small_zoo.parent
    monkeypatch.setattr(tool, "ROOT", root)
    assert tool.main(["--check"]) == 1
    assert capsys.readouterr().err.count("\n") == 2
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    page, former = root / PAGES / "camvid_semantic.md", root / PAGES / "former_semantic.md"
    page.write_text(page.read_text() + "\nby hand\n")
    former.write_text("of a dataset that is gone\n")
    capsys.readouterr()
    assert tool.main(["--check"]) == 1
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == [
        f"{PAGES}/camvid_semantic.md",
        f"{PAGES}/former_semantic.md",
    ]
    assert page.read_text().endswith("by hand\n")
    assert tool.main([]) == 0
    assert not former.exists()
    assert not page.read_text().endswith("\nby hand\n")


def test_size_to_count_at_is_the_stated_one_or_usual_for_the_dataset():
    cfg = load_config("semantic/ade20k/maskformer_r50")
    assert counted_size(cfg, None) == (512, 512)
    assert counted_size(load_config("panoptic/coco/mask2former_r50"), None) == (800, 1088)
    name = "semantic/cityscapes/maskformer_r101"
    info = replace(known_models()[name], size=None, gflops_size=None, official_code=None)
    assert counted_size(load_config(name), info) == (1024, 2048)
    assert counted_size(load_config(name), replace(info, gflops_size=(3, 4))) == (3, 4)
    assert counted_size(load_config(name), replace(info, gflops_size=(3, 4), size=(5, 6))) == (5, 6)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(None, 1, "-"), (44.5, 1, "44.5"), (41.89, 1, "41.89"), (46, 1, "46.0"), (42, 0, "42"), (3.8, 0, "3.8")],
)
def test_numbers_are_shown_as_published(value, digits, text):
    assert tables.number_text(value, digits) == text


def document_tables(text: str) -> list[list[str]]:
    """The lines of each table of a document."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return [block.splitlines() for block in blocks]


@pytest.fixture(scope="module")
def texts():
    return documents(REPOSITORY)


def test_committed_documents_are_those_made_from_the_tables(texts):
    files = {INDEX, *(f"{PAGES}/{file.name}" for file in (REPOSITORY / PAGES).glob("*.md"))}
    assert files == texts.keys()
    stale = [name for name, text in texts.items() if (REPOSITORY / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run python tools/make_model_zoo.py"


def test_the_index_is_short_and_attributes_the_accuracies_first(texts):
    text = texts[INDEX]
    assert text.count("\n") <= 150
    assert "Accuracies are the authors'" in text.split("\n\n")[1]
    reproduced = sum(bool(info.reproduced and info.reproduced.metrics) for info in known_models().values())
    claim = "none has been reproduced" if not reproduced else f"{reproduced} of {len(known_models())} have"
    assert claim in text.split("\n\n")[1]


def test_pages_have_whole_tables_with_attributed_numbers_and_working_links(texts):
    rows = 0
    for name, text in texts.items():
        for lines in document_tables(text):
            cells = [line.count("|") for line in lines]
            assert len(set(cells)) == 1, lines[0]
            if lines[0].startswith("| model | backbone | pre-training |"):
                rows += len(lines) - 2
                numbers = [cell.strip() for cell in lines[0].strip("|").split("|")][4:-2]
                assert all(cell.endswith((", paper", ", quoted", ", reproduced")) for cell in numbers), (
                    numbers
                )
        folder = (REPOSITORY / name).parent
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert (folder / target).resolve().is_file(), target
    assert rows == len(known_models())


def test_the_first_table_of_a_page_fits_on_a_screen_and_has_every_method(texts):
    for name in texts.keys() - {INDEX}:
        first, *others = document_tables(texts[name])
        shown = {line.split("[")[1].split("]")[0] for line in first[2:]}
        assert 0 < len(shown) <= OVERVIEW_ROWS
        assert texts[name][: texts[name].index(first[-1])].count("\n") <= OVERVIEW_ROWS + 12
        for lines in others:
            assert shown & {line.split("[")[1].split("]")[0] for line in lines[2:]}, lines[2]
        models = sum(len(lines) - 2 for lines in others)
        assert len(shown) == min(models, OVERVIEW_ROWS)


def test_links_lead_to_headings(texts):
    slugs: dict[str, list[str]] = {}
    for name, text in texts.items():
        own = slugs.setdefault(name, [])
        for line in re.findall(r"^#{2,3} (.+)$", text, flags=re.MULTILINE):  # as GitHub names headings
            slug = "".join(c for c in line.lower() if c.isalnum() or c in "-_ ").replace(" ", "-")
            count = sum(re.fullmatch(re.escape(slug) + r"(-\d+)?", other) is not None for other in own)
            own.append(f"{slug}-{count}" if slug in own else slug)
    for target in re.findall(r"\]\((docs/zoo/[^)]+)\)", texts[INDEX]):
        page, _, slug = target.partition("#")
        assert not slug or slug in slugs[page], target
    for name in texts.keys() - {INDEX}:
        own = re.findall(r"\]\(#([^)]+)\)", texts[name])
        assert set(own) <= set(slugs[name])
        assert f"{PAGES}/{name.split('/')[-1]}" in texts[INDEX]


def test_a_page_has_its_commands_once(texts):
    for name in texts.keys() - {INDEX}:
        for command in ("train", "evaluate", "predict"):
            assert texts[name].count(f"segzoo {command} ") == 1
        assert texts[name].count("segzoo zoo ") <= 1


def test_tables_are_written_one_line_a_key():
    """What --measure can edit."""
    for file in registry.TABLES.glob("*.yaml"):
        names = [name for part in yaml.safe_load(file.read_text())["sections"] for name in part["models"]]
        lines = [line.split("#")[0].strip() for line in file.read_text().splitlines()]
        assert [name for name in names if f"{name}:" not in lines] == []


def test_pages_offer_a_download_only_of_files_with_a_direct_link():
    known, kinds = known_models(), set()
    for path, text in documents().items():
        if path == INDEX:
            continue
        name = re.search(r"^NAME=(\S+)", text, re.MULTILINE).group(1)
        on_page = [info for info in known.values() if f"configs/{info.name}.yaml" in text]
        kind = (
            "link"
            if any(one.url for one in on_page)
            else "page"
            if any(map(tables.has_link, on_page))
            else ""
        )
        kinds.add(kind)
        assert ("segzoo zoo $NAME --download" in text) == (kind == "link") == bool(known[name].url), path
        assert ("downloaded with a browser" in text) == (kind == "page"), path
    assert kinds == {"link", "page", ""}


def test_unused_parameters_are_those_of_the_models_that_the_line_names(tmp_path):
    spare = (
        "        params: 3.8",
        "        params: 3.8\n        only_official: {head.spare: 1200, norm0: 8}",
    )
    (section,) = read_table(table(tmp_path, spare))
    lines = [line for line in tables.section_text(section).splitlines() if "unused parameters" in line]
    assert len(lines) == 1
    assert lines[0].startswith("- segformer_mit_b0: ")
    assert "`head.spare` (1,200), `norm0` (8)" in lines[0]
    other = ("note: segzoo's own", "only_official: {norm0: 16}")
    (section,) = read_table(table(tmp_path, spare, other))
    lines = [line for line in tables.section_text(section).splitlines() if "unused parameters" in line]
    assert [line.split(":")[0] for line in lines] == ["- segformer_mit_b0", "- maskformer_r18"]
    same = ("note: segzoo's own", "only_official: {head.spare: 1200, norm0: 8}")
    (section,) = read_table(table(tmp_path, spare, same))
    (line,) = [line for line in tables.section_text(section).splitlines() if "unused parameters" in line]
    assert line.startswith("- All: ")
