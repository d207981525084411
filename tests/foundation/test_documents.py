"""Links between the documents lead to existing files and headings."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".", ".github", "datasets", "docs", "docs/zoo", "projects/*", "segzoo/modeling/backbones")
DOCUMENTS = [file for folder in FOLDERS for file in sorted(ROOT.glob(f"{folder}/*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings as GitHub derives them; duplicates are numbered."""
    found: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,6} (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE):
        found[re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")] += 1
    return {f"{slug}-{index}" if index else slug for slug, count in found.items() for index in range(count)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_local_links_exist(document):
    missing = []
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        if "://" not in target and not (file.exists() and (not anchor or anchor in anchors(file))):
            missing.append(target)
    assert missing == []


def test_documents_are_found():
    assert len(DOCUMENTS) > 50


def test_the_notice_names_the_paper_of_each_method():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    papers = {}
    for readme in ROOT.glob("projects/*/README.md"):
        if found := re.search(r"arxiv\.org/abs/([\d.]+\d)", readme.read_text(encoding="utf-8")):
            papers[readme.parent.name] = found[1]
    assert len(papers) > 15
    assert [name for name, paper in papers.items() if f"arXiv:{paper}" not in notice] == []


def test_coming_from_lists_all_projects():
    text = (ROOT / "COMING_FROM.md").read_text(encoding="utf-8")
    assert re.findall(r"^- \[(.+)\]\(#", text, re.MULTILINE) == re.findall(r"^## (.+)$", text, re.MULTILINE)
