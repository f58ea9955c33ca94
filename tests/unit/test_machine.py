"""What a process may use: CPUs by affinity and control group, and folders to import from."""

import os
import subprocess
import sys

import pytest

from bayes_pfl.machine import ImportFolders, cpu_quota, gpu_share, usable_cpus


def test_cpus_kept_from_a_process_are_not_counted():
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    program += "from bayes_pfl.machine import usable_cpus; print(usable_cpus())"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "1\n"
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "membership", "quota"),
    [
        ({}, "0::/\n", None),
        ({"cpu.max": "max 100000"}, "0::/\n", None),
        ({"cpu.max": "150000 100000"}, "0::/\n", 1.5),
        ({"cpu.max": "150000 100000"}, "0::/of/the/host\n", 1.5),
        ({"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 0.5),
        ({"unified/a/cpu.max": "50000 100000"}, "3:cpuset:/\n0::/a\n", 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/\n0::/\n", None),
        (
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "400000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            "1:cpu,cpuacct:/x\n",
            4,
        ),
        ({"cpu/cpu.cfs_quota_us": "no", "cpu/cpu.cfs_period_us": "number"}, "nonsense\n1:cpu:/\n", None),
    ],
)
def test_quotas_of_control_groups(tmp_path, files, membership, quota):
    for name, content in files.items():
        (tmp_path / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mount" / name).write_text(content + "\n", encoding="utf-8")
    (tmp_path / "self").write_text(membership, encoding="utf-8")
    assert cpu_quota(tmp_path / "mount", tmp_path / "self") == quota
    assert cpu_quota(tmp_path / "mount", tmp_path / "nothing") is None


def test_workers_import_from_no_folder_that_this_process_does_not_import_from(tmp_path, monkeypatch):
    own, other = tmp_path / "own", tmp_path / "other"
    monkeypatch.setattr(sys, "path", [str(own)])
    folders = ImportFolders()
    folders.extend([str(own), str(other)])
    assert folders == [str(own)]


@pytest.mark.parametrize(
    ("gpus", "processes", "share"),
    [(0, 2, 0.0), (1, 1, 1.0), (4, 2, 1.0), (1, 2, 0.5), (2, 3, 0.5), (3, 4, 0.5), (1, 3, 0.3333), (1, 6, 0.1666)],
)
def test_shares_of_gpus_lie_on_one_each(gpus, processes, share):
    assert gpu_share(gpus, processes) == share
    if share:
        assert int(1 / share) * gpus >= processes  # all of them find room
