"""Runs whose loss is not finite: what they leave, and where it goes."""

import shutil

import pytest

from experiments import figures, results, runs, stored, tables, train
from experiments.config import Config
from experiments.files import read_json, write_json
from experiments.results import read_runs
from experiments.stored import read_failure

# They train.
pytestmark = pytest.mark.slow

BREAKING = {"model": "vgg6", "width": 0.25, "batch_size": 128, "epochs": 3, "gamma_0": 0.3}
ONE_RUN = {"sm_sr/seed0": Config(**BREAKING)}


class Breaking(train.StopOnNonFinite):
    """As the loss of a network that takes `epochs` epochs to break."""

    epochs = 2

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        if epoch == self.epochs:
            self._check(0, {"loss": float("nan")})


@pytest.fixture
def breaking(tmp_path, monkeypatch):
    """`breaking(epochs) -> failures`: trains one run, in this process, whose loss is not finite after so many epochs."""
    monkeypatch.setattr(runs, "in_new_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(runs, "_train", lambda config, folder, *more: train.train(config, folder, verbose=0))

    def break_after(epochs):
        with monkeypatch.context() as broken:
            broken.setattr(train, "StopOnNonFinite", Breaking)
            broken.setattr(Breaking, "epochs", epochs)
            _, failures = runs.train_all(ONE_RUN, str(tmp_path / "runs"), collect=str(tmp_path / "small"))
        return failures

    return break_after


def test_a_run_whose_loss_is_not_finite_leaves_its_histories(tmp_path, breaking):
    wanted, collect = ONE_RUN, str(tmp_path / "small")
    failures = breaking(2)
    assert "loss=nan in epoch 3" in failures["sm_sr/seed0"]
    told, workdir = tmp_path / "small" / "sm_sr.seed0.failure.json", tmp_path / "runs" / "sm_sr" / "seed0"
    found = read_failure(told)
    assert found["epochs"] == 2 and found["config"] == Config(**BREAKING).as_dict()
    assert found["reason"] in failures["sm_sr/seed0"] and read_failure(workdir / "failure.json") == found
    (run,) = read_runs(collect, ["sm_sr"]).values()
    assert [line["epoch"] for line in run["history"]] == [0, 1] == sorted({line["epoch"] for line in run["kernels"]})
    # The figures of kernels show it, those of distributions cannot.
    figures.figure_2({"sm_sr": run}, {}, str(tmp_path / "figure_2.png"))
    for others in ({}, {"sm_1": {**run, "distributions": {"layers": []}}}):
        with pytest.raises(figures.Missing, match="distributions of sm_sr"):
            figures.figure_17({**others, "sm_sr": run}, {}, "nowhere.png")
    line = tables.table1({}, {"sm_sr": [found]}).splitlines()[2]
    assert line == "| SM+SR | - | - | - | - | - | 0, 1 not finite | 91.05 | 7.31 | +0.0 | -0.78 |"
    # Tried again, it fails again; its checkpoint may be an earlier version's.
    state = workdir / "checkpoint" / "state.json"
    write_json(state, {name: value for name, value in read_json(state).items() if name in stored.STATE})
    assert breaking(2).keys() == failures.keys()
    again = read_failure(told)
    assert (again["epochs"], again["replicas"], again["data"]) == (2, 1, found["data"])
    # And what it left goes with its result.
    trained, failures = runs.train_all(wanted, str(tmp_path / "runs"), collect=collect)
    assert trained["sm_sr/seed0"]["epochs"] == 3 and not failures and not (workdir / "failure.json").exists()
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == [
        f"sm_sr.seed0.{name}" for name in ("distributions.json", "history.csv", "json", "kernels.csv")
    ]


def test_a_run_whose_first_epoch_is_not_finite_is_counted(tmp_path, breaking):
    assert "in epoch 1" in breaking(0)["sm_sr/seed0"]
    found = read_failure(tmp_path / "small" / "sm_sr.seed0.failure.json")
    assert found["epochs"] == 0 and not read_runs(tmp_path / "small", ["sm_sr"])


def test_what_a_failed_run_left_is_checked_before_anything_is_trained(tmp_path, breaking, monkeypatch):
    breaking(1)
    monkeypatch.setattr(runs, "in_new_process", lambda *arguments: pytest.fail("trained"))

    def refused(config, match, workdir="new", collect="small"):
        with pytest.raises((FileExistsError, FileNotFoundError, ValueError), match=match):
            runs.train_all({"sm_sr/seed0": config}, str(tmp_path / workdir), collect=str(tmp_path / collect))

    refused(Config(**{**BREAKING, "tau_0": 5.0}), "failure.json to hold what .* Received: tau_0: 10.0 there, 5.0")
    for name in ("history.csv", "kernels.csv", "failure.json"):
        for path, *places in (
            (tmp_path / "small" / f"sm_sr.seed0.{name}", "new", "small"),
            (tmp_path / "runs" / "sm_sr" / "seed0" / name, "runs", "nowhere"),
        ):
            content = path.read_bytes()
            for damage in (b"", content[:-2], content.replace(b"1", b"2"), content + content.splitlines(True)[-1]):
                path.write_bytes(damage)
                refused(Config(**BREAKING), f"Expected .*{path.name}", *places)
            path.unlink()
            if name != "failure.json":
                refused(Config(**BREAKING), f"Expected .*{path.name}, which .* names", *places)
            path.write_bytes(content)


def test_a_result_that_another_machine_brought_stays(tmp_path, breaking, monkeypatch):
    small, other = tmp_path / "small", tmp_path / "other"
    runs.train_all(ONE_RUN, str(tmp_path / "elsewhere"), collect=str(other))
    whole = {path.name: path.read_bytes() for path in other.iterdir()}
    check = Breaking._check

    def bring(self, batch, logs):
        shutil.copytree(other, small, dirs_exist_ok=True)
        check(self, batch, logs)

    monkeypatch.setattr(Breaking, "_check", bring)
    breaking(1)
    assert {path.name: path.read_bytes() for path in small.iterdir()} == whole


def test_what_a_failed_run_left_is_gone_before_the_result_is_there(tmp_path, breaking, monkeypatch):
    breaking(1)
    failure, copyfile = tmp_path / "small" / "sm_sr.seed0.failure.json", shutil.copyfile
    kept = failure.read_bytes()

    def kill(source, target):
        if source.endswith("result.json"):
            raise KeyboardInterrupt
        return copyfile(source, target)

    again = (ONE_RUN, str(tmp_path / "runs"))
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(shutil, "copyfile", kill)
        runs.train_all(*again, collect=str(tmp_path / "small"))
    assert not failure.exists()
    runs.train_all(*again, collect=str(tmp_path / "small"))
    # Files of two machines may have come together.
    failure.write_bytes(kept)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert list(results.table1_results("small")) == ["sm_sr"] and not results.table1_failures("small")
    runs.train_all(*again, collect=str(tmp_path / "small"))
    assert not failure.exists()
