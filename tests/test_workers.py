"""One run on two workers: TF_CONFIG, what is refused, and real processes that are killed and started again."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import ports, runs, workers
from experiments.config import Config

ROOT = pathlib.Path(__file__).parent.parent
TWO = {"cluster": {"worker": ["one:1234", "two:1234"]}, "task": {"type": "worker", "index": 1}}


def given(monkeypatch, value):
    monkeypatch.setenv("TF_CONFIG", value if isinstance(value, str) else json.dumps(value))


def test_what_tf_config_tells(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert workers.cluster() is None and workers.is_first()
    given(monkeypatch, {"cluster": {"worker": ["one:1234"]}, "task": {"type": "worker", "index": 0}})
    assert workers.cluster() is None
    given(monkeypatch, TWO)
    assert workers.cluster() == workers.Cluster(("one:1234", "two:1234"), 1) and not workers.is_first()


WRONG = {
    "no JSON": ("{", "JSONDecodeError"),
    "no cluster": ({"task": {"type": "worker", "index": 0}}, "KeyError: 'cluster'"),
    "no task": ({"cluster": TWO["cluster"]}, "KeyError: 'task'"),
    "no workers": ({**TWO, "cluster": {"chief": ["one:1"]}}, "KeyError: 'worker'"),
    "a chief": ({**TWO, "cluster": {**TWO["cluster"], "chief": ["three:1"]}}, "jobs or a task other than worker"),
    "an evaluator": ({**TWO, "task": {"type": "evaluator", "index": 0}}, "jobs or a task other than worker"),
    "too large an index": ({**TWO, "task": {"type": "worker", "index": 2}}, "index 2 of 2 workers"),
    "no port": ({**TWO, "cluster": {"worker": ["one", "two:1"]}}, "the address 'one'"),
    "no host": ({**TWO, "cluster": {"worker": [":1", "two:1"]}}, "the address ':1'"),
    "a missing address": ({**TWO, "cluster": {"worker": [None, "two:1"]}}, "the address None"),
    "IPv6": ({**TWO, "cluster": {"worker": ["[::1]:1", "two:1"]}}, "'[::1]:1', an IPv6 address"),
    "twice": ({**TWO, "cluster": {"worker": ["one:1", "one:1"]}}, "an address twice"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tf_configs_are_refused(monkeypatch, name):
    value, message = WRONG[name]
    given(monkeypatch, value)
    with pytest.raises(ValueError, match=r"Expected TF_CONFIG to be like \{.*\}. Received: ") as raised:
        workers.cluster()
    assert message in str(raised.value)


def test_runs_one_after_the_other_are_refused(monkeypatch, tmp_path):
    given(monkeypatch, TWO)
    with pytest.raises(
        ValueError, match="Expected runs one after the other to run in one process. Received: TF_CONFIG of 2"
    ):
        runs.train_all({"run": Config()}, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_worker_that_does_not_come_is_named():
    one, two = ports.free_ports(2)
    cluster = workers.Cluster((f"127.0.0.1:{one}", f"127.0.0.1:{two}"), 0)
    with pytest.raises(ConnectionError, match=f"every worker at its address within 1 seconds.*127.0.0.1:{two}"):
        workers.meet(cluster, seconds=1)


def test_a_port_that_is_taken_is_told():
    one, two = ports.free_ports(2)
    cluster, message = (
        workers.Cluster((f"127.0.0.1:{one}", f"127.0.0.1:{two}"), 0),
        f"Expected to listen at port {one} of",
    )
    with socket.create_server(("", one)), pytest.raises(ConnectionError, match=message):
        workers.meet(cluster, seconds=1)


def test_a_process_that_waits_for_too_long_ends_with_its_reason(in_fresh_process):
    wait = "import time\nfrom experiments.workers import within\n"
    wait += "with within({}, 'the reason'): time.sleep({})\nprint('went on')"
    assert in_fresh_process(wait.format(60, 0)) == "went on\n"
    with pytest.raises(AssertionError, match="ConnectionError: the reason"):
        in_fresh_process(wait.format(0.1, 60))


def start(workdir, given, *flags, indices=(0, 1)):
    """Both workers of a run, or one of them."""
    command = [sys.executable, "-m", "experiments.cifar", "--flagfile=experiments/flagfiles/digits.flags"]
    command += ["--width=0.125", "--epochs=3", "--target_epoch=2", f"--workdir={workdir}", *flags]
    started = []
    for index in indices:
        told = {
            "cluster": {"worker": [f"127.0.0.1:{port}" for port in given]},
            "task": {"type": "worker", "index": index},
        }
        environment = {**os.environ, "TF_CONFIG": json.dumps(told)}
        with open(workdir.with_name(f"{workdir.name}.{index}.log"), "w") as output:
            options = {"cwd": ROOT, "env": environment, "stdout": output, "stderr": subprocess.STDOUT}
            started.append(subprocess.Popen(command, **options))
    return started


def outputs(workdir):
    return [workdir.with_name(f"{workdir.name}.{index}.log").read_text() for index in range(2)]


def ended(started, workdir):
    """Exit codes of both."""
    try:
        return [process.wait(timeout=300) for process in started]
    except subprocess.TimeoutExpired:
        raise AssertionError("\n".join(text[-3000:] for text in outputs(workdir))) from None
    finally:
        for process in started:
            process.kill()


def wait_for_epoch(workdir, epoch, started):
    """Returns when the checkpoint of so many epochs is there."""
    path, end = workdir / "checkpoint" / "state.json", time.monotonic() + 240
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError, ValueError):
            if json.loads(path.read_text())["epochs"] >= epoch:
                return
        assert all(process.poll() is None for process in started), "\n".join(outputs(workdir))
        time.sleep(0.02)
    raise AssertionError("\n".join(outputs(workdir)))


@pytest.mark.slow
def test_killed_workers_resume_to_the_same_result(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # Beside the others, because most of the time they wait for each other.
    undisturbed = start(whole, ports.free_ports(2))
    for epoch, victim in ((1, 1), (2, 0)):
        started = start(killed, ports.free_ports(2))
        wait_for_epoch(killed, epoch, started)
        started[victim].send_signal(signal.SIGKILL)
        codes = ended(started, killed)
        assert codes[victim] == -signal.SIGKILL and codes[1 - victim] not in (0, -signal.SIGKILL)
        assert "Expected all workers to be at work. Received: one that has ended" in outputs(killed)[1 - victim]
    assert ended(start(killed, ports.free_ports(2)), killed) == [0, 0], outputs(killed)
    assert ended(undisturbed, whole) == [0, 0], outputs(whole)
    assert "Worker 0 writes the result." in outputs(whole)[1]
    found = [json.loads((folder / "result.json").read_text()) for folder in (whole, killed)]
    for name in ("accuracy", "loss", "spikes", "layers", "epochs"):
        assert found[0][name] == found[1][name], name
    histories = [
        [line.split(",")[2:] for line in (folder / "history.csv").read_text().splitlines()]
        for folder in (whole, killed)
    ]
    np.testing.assert_array_equal(*histories)
    assert (whole / "kernels.csv").read_text() == (killed / "kernels.csv").read_text()


@pytest.mark.slow
def test_workers_of_other_settings_are_refused_by_both(tmp_path):
    workdir, given = tmp_path / "run", ports.free_ports(2)
    started = start(workdir, given, indices=[0])
    started += start(workdir, given, "--learning_rate=0.1", indices=[1])
    for code, text in zip(ended(started, workdir), outputs(workdir)):
        assert code == 1 and "Expected the same settings on every worker" in text, text[-3000:]
    assert not (workdir / "config.json").exists()
