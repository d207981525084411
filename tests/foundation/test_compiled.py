"""Loops compiled by numba, which is optional."""

import logging
import sys

from segzoo.utils.compiled import load_loops


def test_without_numba_there_are_no_loops_and_one_line_says_so(monkeypatch, caplog):
    module = "segzoo.layers.nms_loops"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)  # its import fails
    with caplog.at_level(logging.INFO):
        assert load_loops.__wrapped__(module) is None
    (line,) = caplog.messages
    assert line.startswith(f"{module} needs numba; computing without it")
    assert "\n" not in line
