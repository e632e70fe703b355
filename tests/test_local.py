"""Tests of common/engines/local.py; that its steps end with it is tested in test_reproduce.py."""

import math
import os
from pathlib import Path

from common.engines.local import (
    STEP_MEMORY,
    Limits,
    arguments_of,
    count_workers,
    read_limits,
    run_child,
)
from common.run import Options


def test_what_a_control_group_allows_is_read(tmp_path: Path):
    membership = tmp_path / "membership"
    root = tmp_path / "root"

    def limits(groups: str, files: dict[str, str]) -> Limits:
        membership.write_text(groups)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return read_limits(root, membership)

    assert read_limits(root, membership) == Limits(math.inf, math.inf)
    nothing = {"a/b/cpu.max": "max 100000\n", "a/b/memory.max": "max\n"}
    assert limits("0::/a/b\n", nothing) == Limits(math.inf, math.inf)
    # Version 2: the least of a group and of those above it.
    files = {"a/b/cpu.max": "250000 100000\n", "a/memory.max": "4000\n", "memory.max": "5000\n"}
    assert limits("0::/a/b\n", files) == Limits(2.5, 4000)
    # Version 1; in a container, a path may be the one outside.
    files = {
        "cpu/cpu.cfs_quota_us": "150000\n",
        "cpu/cpu.cfs_period_us": "100000\n",
        "cpu/c/cpu.cfs_quota_us": "-1\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/c/memory.limit_in_bytes": "3000\n",
    }
    assert limits("2:cpu:/outside/c\n1:memory:/c\n", files) == Limits(1.5, 3000)


def test_there_is_always_a_worker_and_never_more_than_cores():
    assert STEP_MEMORY > 1e9
    assert 1 <= count_workers() <= os.cpu_count()


def test_a_step_gets_every_option_and_a_flag_only_if_it_is_set():
    words = arguments_of("studies/ablation", Options(seed=3, quick=True))
    assert words[0] == "studies.ablation" and words[-1] == "--quick"
    assert words[words.index("--seed") + 1] == "3"
    assert "--quick" not in arguments_of("q1_autoencoder", Options())


def test_a_child_is_run_in_its_folder_with_one_thread_until_it_is_stopped(tmp_path: Path):
    (tmp_path / "child.py").write_text(
        "import os, sys; print(sys.argv[1], os.environ['OMP_NUM_THREADS']); sys.exit(3)"
    )
    process = run_child(["child", "--option"], tmp_path, lambda: False)
    assert (process.returncode, process.stdout, process.stderr) == (3, "--option 1\n", "")

    (tmp_path / "child.py").write_text("print('±')")
    assert run_child(["child"], tmp_path, lambda: False).stdout == "±\n"  # in any locale

    # A child that is stopped may tidy up, but not for long.
    ready = tmp_path / "ready"
    lines = ["import signal, time", f"open({str(ready)!r}, 'w')", "while True: time.sleep(0.05)"]
    (tmp_path / "child.py").write_text("\n".join(lines))
    process = run_child(["child"], tmp_path, ready.exists)
    assert "KeyboardInterrupt" in process.stderr

    ready.unlink()
    lines.insert(1, "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    (tmp_path / "child.py").write_text("\n".join(lines))
    process = run_child(["child"], tmp_path, ready.exists)
    assert process.returncode == 1 and process.stderr == ""
