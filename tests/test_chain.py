"""Runs that other runs begin from."""

import os

import pytest

from experiments import chain, command, fast, runs
from experiments.config import Config, with_models
from experiments.files import write_text
from experiments.workdir import check_workdir, contents

SMALL = ("--dataset=digits", "--width=0.25", "--batch_size=64")


def flagfile(path, *lines):
    write_text(path, "\n".join(["# A run.", *SMALL, *lines]) + "\n")
    return str(path)


@pytest.fixture
def two(tmp_path):
    """Flagfiles of a ReLU network, and of a TTFS network that begins from it."""
    relu = flagfile(tmp_path / "relu.flags", "--activation=relu")
    return relu, flagfile(tmp_path / "first.flags", f"--start_from={relu}", "--time_window=16")


def test_the_runs_before_a_run_in_the_order_of_training(two):
    relu, first = two
    config = Config(start_from=first, time_window=8, seed=3, width=0.5, train_images=64)
    configs, models = chain.runs_before(config, "w")
    assert list(configs) == ["start/start", "start"]
    assert models == {
        "": {first: "w/start/model.keras"},
        "start": {relu: "w/start/start/model.keras"},
        "start/start": {},
    }
    assert [configs[name].activation for name in configs] == ["relu", "ttfs"]
    for before in configs.values():
        assert (before.seed, before.width, before.train_images, before.batch_size) == (3, 0.5, 64, 64)
    assert chain.runs_before(Config(start_from="model.keras"), "w") == ({}, {"": {}})


def test_a_teacher_has_a_directory_and_a_width_of_its_own(two):
    relu, _ = two
    config = Config(teacher=relu, lambda_kd=0.5, width=0.5, seed=1)
    configs, models = chain.runs_before(config, "w")
    assert models[""] == {relu: "w/teacher/model.keras"} and configs["teacher"].width == 0.25
    both = Config(teacher=relu, start_from=relu, lambda_kd=0.5, width=0.25)
    assert chain.runs_before(both, "w")[1][""] == {relu: "w/start/model.keras"}
    assert list(chain.runs_before(both, "w")[0]) == ["start"]
    other = Config(teacher=relu, start_from=relu, lambda_kd=0.5, width=0.5)
    configs, models = chain.runs_before(other, "w")
    assert models[""] == {relu: "w/start/model.keras"} and configs["start"].width == 0.5


def test_a_run_that_two_begin_from_is_trained_once():
    configs, models = chain.runs_before(fast.row_config("t8"), "w")
    assert list(configs) == ["start/start", "start"]
    twin = models["start"][configs["start"].start_from]
    assert twin == models[""][fast.row_config("t8").teacher] == "w/start/start/model.keras"


def test_flagfiles_include_others_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.config_from_flagfile("experiments/flagfiles/fast/t8.flags").time_window == 8


def test_a_run_does_not_begin_from_itself(tmp_path):
    path = tmp_path / "a.flags"
    flagfile(path, f"--start_from={path}")
    with pytest.raises(ValueError, match="Expected runs that begin from others. Received: start_from="):
        chain.runs_before(command.config_from_flagfile(path), "w")


def test_models_stand_in_for_flagfiles_in_the_config_alone_that_is_built(tmp_path, two):
    relu, _ = two
    config = Config(start_from=relu)
    model = tmp_path / "model.keras"
    with pytest.raises(ValueError, match="Expected a trained model of start_from. Received: start_from="):
        with_models(config, {})
    with pytest.raises(FileNotFoundError, match="Expected .*model.keras, the model of start_from=.* no such file"):
        with_models(config, {relu: str(model)})
    model.write_bytes(b"")
    assert with_models(config, {relu: str(model)}).start_from == str(model)
    assert config.start_from == relu and with_models(Config(), {}) == Config()


def test_what_is_trained_first(tmp_path, two, monkeypatch):
    """Every run once, in its place, before the run itself has written anything."""
    relu, first = two
    workdir, trained = tmp_path / "run", []

    def in_new_process(function, config, folder, data_dir, download, expected, models):
        trained.append((os.path.relpath(folder, workdir), config.activation, models))
        raise RuntimeError("stop")

    monkeypatch.setattr(runs, "in_new_process", in_new_process)
    with pytest.raises(SystemExit, match="Failed: start/start: RuntimeError: stop; start: RuntimeError: stop"):
        chain.train_first(Config(start_from=first), str(workdir))
    assert trained == [
        ("start/start", "relu", {}),
        ("start", "ttfs", {relu: str(workdir / "start/start/model.keras")}),
    ]
    assert chain.train_first(Config(), str(workdir)) == {}


def test_the_runs_before_a_run_are_neither_foreign_nor_removed(tmp_path):
    config = Config()
    (tmp_path / "start" / "start").mkdir(parents=True)
    (tmp_path / "start" / "start" / "model.keras").write_bytes(b"")
    assert check_workdir(config, str(tmp_path)) is False
    found = contents(str(tmp_path))
    assert (found.files, found.folders, found.foreign) == ([], [], [])
    (tmp_path / "notes").mkdir()
    assert contents(str(tmp_path)).foreign == ["notes"]
    (tmp_path / "notes").rmdir()
    (tmp_path / "teacher").symlink_to(tmp_path / "start")
    assert contents(str(tmp_path)).foreign == ["teacher"]
    with pytest.raises(FileExistsError, match="which holds other files: teacher"):
        check_workdir(config, str(tmp_path))
