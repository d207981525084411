"""Writes MODEL_ZOO.md from the tables of `segzoo/model_zoo/weights/`."""

from pathlib import Path

from segzoo.model_zoo.tables import render

REPOSITORY = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    (REPOSITORY / "MODEL_ZOO.md").write_text(render(), encoding="utf-8")
    print("MODEL_ZOO.md written")
