"""SIGKILL, SIGTERM, SIGINT at random moments, then --resume: nothing is corrupt, duplicated or missing."""

from tests.engine import kill_many, warm


def test_killed_runs_resume_to_the_result_they_would_have_had(tmp_path):
    # For more: python -m tests.engine.kill_many --kills 100
    started = warm.start(tmp_path / "output", kill_many.main, ["--kills", "8", "--seed", "3"])
    assert started.status(timeout=200) == 0, started.output
    assert "8 kills: " in started.output
