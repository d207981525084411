"""The threads of OpenMP: settings before torch is imported, shares of processors, forks."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segzoo.utils import threads

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = sorted(file for file in ROOT.glob("tools/*.py") if "from command_line import" in file.read_text())


def run_python(code: str, **settings: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in threads.OPENMP_SETTINGS}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


FORK = """
import os, signal
import segzoo, torch
from segzoo.utils import threads

if not {given_up}:
    threads._end_idle_threads = lambda: False

def work():
    return (torch.ones(700, 700) @ torch.ones(700, 700)).sum().item()

torch.set_num_threads(2)
expected = work()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(10 + torch.get_num_threads() if work() == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) - 10, work() == expected, torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("given_up", [True, False])
def test_a_forked_process_runs_operators_when_its_parent_has_run_some(given_up):
    """Alone it would wait for threads that it does not have, until the alarm ends it.

    Where the parent cannot give its threads up, the child has one.
    """
    threads_of_child = "2" if given_up else "1"
    assert run_python(FORK.format(given_up=given_up)).split() == [threads_of_child, "True", "2"]


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has loaded is looked up on Linux")
def test_threads_are_kept_if_the_loaded_libraries_are_unknown(monkeypatch):
    """As in a sandbox without /proc. The child has one thread then."""

    def refuse(*_, **__):
        raise FileNotFoundError("/proc/self/maps")

    monkeypatch.setitem(sys.modules, "torch", object())
    monkeypatch.setattr(threads, "open", refuse, raising=False)
    assert threads._end_idle_threads() is False


class TestSettings:
    def test_threads_sleep_unless_the_user_has_set_a_wait_policy(self):
        given = {}
        threads.configure_openmp(given)
        assert given["OMP_WAIT_POLICY"] == "passive"
        assert _set_for({"OMP_WAIT_POLICY": "active"})["OMP_WAIT_POLICY"] == "active"

    def test_threads_are_limited_to_the_share_of_a_container_only(self, monkeypatch):
        monkeypatch.setattr(threads, "_bound_processors", lambda: 64)
        monkeypatch.setattr(threads, "_cgroup_shares", lambda: iter([8.0, 2.5]))
        assert _set_for({})["OMP_NUM_THREADS"] == "3"
        assert _set_for({"OMP_NUM_THREADS": "16"})["OMP_NUM_THREADS"] == "16"
        monkeypatch.setattr(threads, "_cgroup_shares", lambda: iter([]))
        assert "OMP_NUM_THREADS" not in _set_for({})

    def test_processes_with_other_processors_do_not_inherit_the_number(self, monkeypatch):
        """That of a container or login node; what the user has set they do inherit."""
        monkeypatch.setattr(threads, "_bound_processors", lambda: 64)
        monkeypatch.setattr(threads, "_cgroup_shares", lambda: iter([8.0]))
        monkeypatch.setattr(threads, "_own_numbers", [])
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        threads.configure_openmp()
        with threads.user_thread_setting():
            assert os.environ["OMP_NUM_THREADS"] == "5"
        monkeypatch.delenv("OMP_NUM_THREADS")
        threads.configure_openmp()
        with threads.user_thread_setting():
            assert "OMP_NUM_THREADS" not in os.environ
        assert os.environ["OMP_NUM_THREADS"] == "8"

    @pytest.mark.parametrize("tool", TOOLS, ids=lambda file: file.stem)
    def test_every_tool_sets_them_before_it_imports_torch(self, tool):
        """command_line does so; of segzoo only the package may come before it, which imports no torch."""
        order = [
            name
            for node in ast.parse(tool.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names])
        ]
        before = order[: order.index("command_line")]
        assert [name for name in before if name.split(".")[0] in ("torch", "torchvision", "detectron2")] == []
        assert [name for name in before if name.startswith("segzoo.")] == []

    def test_command_line_and_segzoo_leave_torch_unimported(self):
        code = (
            f"import os, sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tools')!r}]; import command_line; "
            "print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
        )
        assert run_python(code).split() == ["False", "passive"]


def _set_for(environment: dict[str, str]) -> dict[str, str]:
    threads.configure_openmp(environment)
    return environment


class TestShares:
    """Files as the kernel shows them: of version 2, of a container, of version 1."""

    def write(self, folder: Path, **files: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("cpu_", "cpu.")).write_text(text)

    def test_every_group_around_the_process_counts(self, tmp_path):
        self.write(tmp_path / "root", cpu_max="max 100000\n")
        self.write(tmp_path / "root" / "batch", cpu_max="400000 100000\n")
        self.write(tmp_path / "root" / "batch" / "job", cpu_max="150000 100000\n")
        self.write(tmp_path, own="0::/batch/job\n")
        shares = threads._cgroup_shares(tmp_path / "root", tmp_path / "own")
        assert list(shares) == [1.5, 4.0]

    def test_a_container_whose_path_is_that_of_the_host(self, tmp_path):
        self.write(tmp_path / "root", cpu_max="200000 100000\n")
        self.write(tmp_path, own="0::/docker/0123\n")
        assert list(threads._cgroup_shares(tmp_path / "root", tmp_path / "own")) == [2.0]

    def test_version_1(self, tmp_path):
        group = tmp_path / "root" / "cpu,cpuacct" / "job"
        self.write(group, cpu_cfs_quota_us="300000\n", cpu_cfs_period_us="100000\n")
        self.write(group.parent, cpu_cfs_quota_us="-1\n", cpu_cfs_period_us="100000\n")
        self.write(tmp_path, own="5:memory:/job\n3:cpu,cpuacct:/job\n")
        assert list(threads._cgroup_shares(tmp_path / "root", tmp_path / "own")) == [3.0]

    def test_a_system_without_control_groups(self, tmp_path):
        assert list(threads._cgroup_shares(tmp_path, tmp_path / "own")) == []
        assert threads.free_processors() >= 1
