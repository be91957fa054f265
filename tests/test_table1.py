"""Table 1: its flagfiles, the runs of many rows, the table and the figures."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from absl import flags

from experiments import command as commands
from experiments import paper, processes, runs, sweeps, table1, tables
from experiments.config import Config
from experiments.files import read_csv, read_json, write_json

# They run the commands.
pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = ("--dataset=digits", "--model=vgg6", "--width=0.25", "--batch_size=128", "--epochs=4", "--gamma_0=0.3")
ROWS = "relu,sm_sr"
# Of a result: what differs between two runs that are the same, one of them interrupted.
TIMES = ("wall_time", "finished", "files_sha256", "sha256")


def command(workdir, *more):
    program = [sys.executable, "-m", "experiments.table1", f"--workdir={workdir}", f"--rows={ROWS}", "--seeds=0,1"]
    return [*program, "--target_epoch=2", *DIGITS, *more]


def run(arguments):
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)


def settings(scale):
    """What a scale's flagfile changes."""
    values = flags.FlagValues()
    commands.define_config_flags(values)
    values(["test", f"--flagfile={table1.FLAGFILES / f'{scale}.flags'}"])
    return commands.changed_fields(values)


def small():
    return settings("small")


def test_every_row_has_its_flagfile():
    there = {path.stem for path in table1.FLAGFILES.glob("*.flags")}
    assert there == {*paper.TABLE1_ROWS, "base", "small", "converged"}


def test_rows_are_the_papers_recipe():
    for row in paper.TABLE1_ROWS:
        config = table1.row_config(row)
        assert (config.batch_size, config.epochs, config.optimizer, config.learning_rate) == (512, 2000, "adam", 1e-3)
        assert (config.time_window, config.tau_0, config.gamma_0, config.l2) == (32, 10.0, 1.0, 5e-4)
        assert (config.dataset, config.model, config.width) == ("cifar10", "vgg16", 1.0)


@pytest.mark.parametrize("scale", ["paper", "small", "converged"])
def test_rows_differ_as_table_1_says(scale):
    overrides = {} if scale == "paper" else settings(scale)
    configs = {row: table1.row_config(row, overrides) for row in paper.TABLE1_ROWS}
    fields = ("activation", "z_max_0", "relaxation", "lambda_tr", "lambda_tb")
    assert {row: tuple(getattr(config, name) for name in fields) for row, config in configs.items()} == {
        "relu": ("relu", 1.0, True, 0.0, 0.0),
        "sm_1": ("ttfs", 1.0, False, 0.0, 0.0),
        "sm_2": ("ttfs", 2.0, False, 0.0, 0.0),
        "sm_sr": ("ttfs", 1.0, True, 0.0, 0.0),
        "sm_sr_tr": ("ttfs", 1.0, True, 1e-5, 0.0),
        "sm_sr_tr_tb_1e-5": ("ttfs", 1.0, True, 1e-5, 1e-5),
        "sm_sr_tr_tb_1e-4": ("ttfs", 1.0, True, 1e-5, 1e-4),
    }
    names = (*fields, "row")
    rest = {tuple((k, v) for k, v in config.as_dict().items() if k not in names) for config in configs.values()}
    assert len(rest) == 1


def test_a_flagfile_from_the_command_line_gives_the_same_row():
    values = flags.FlagValues()
    commands.define_config_flags(values)
    folder = "experiments/flagfiles/table1"
    here = os.getcwd()
    os.chdir(ROOT)
    try:
        values(["cifar", f"--flagfile={folder}/sm_sr_tr.flags", f"--flagfile={folder}/small.flags"])
    finally:
        os.chdir(here)
    assert commands.config_from_flags(values) == table1.row_config("sm_sr_tr", small())


def test_sweeps_change_one_flag_and_share_their_base():
    configs = sweeps.configs(["lambda_tr", "gamma_0", "schedule"], small())
    base = configs["sm_sr_tr,base"]
    assert base == table1.row_config("sm_sr_tr", small())
    assert configs["sm_sr_tr,lambda_tr=1e-06"].lambda_tr == 1e-6
    for name, config in configs.items():
        changed = [key for key, value in config.as_dict().items() if value != base.as_dict()[key]]
        assert changed == ([] if name.endswith("base") else [name.split(",")[1].split("=")[0]])


def test_every_sweep_gives_valid_configs():
    for name, (row, _, values) in sweeps.SWEEPS.items():
        configs = sweeps.configs([name], {} if row.startswith("fast/") else {**small(), "target_epoch": 1})
        assert len(configs) == len(values) and f"{row.replace('/', '_')},base" in configs, name


def test_sweeps_of_rows_that_begin_from_a_twin_share_it():
    wanted = sweeps.configs(["fast_tau_0", "fast_spike_budget"], {"width": 0.25, "epochs": 2})
    before, models = sweeps.starts(wanted, "w")
    assert list(before) == ["start"] and before["start"].activation == "relu" and before["start"].width == 0.25
    assert before["start"].epochs > 2 and models.pop("start") == {}
    assert models.keys() == wanted.keys()
    assert {path for paths in models.values() for path in paths.values()} == {os.path.join("w", "start", "model.keras")}
    other = sweeps.configs(["fast_tau_0"], {"width": 0.5})
    with pytest.raises(ValueError, match="Expected sweeps that begin from the same runs. Received: fast_t16,tau_0=5"):
        sweeps.starts({**wanted, **{f"{name} ": config for name, config in other.items()}}, "w")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("table1") / "whole"
    done = run(command(workdir, f"--collect={workdir}.small"))
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_table_and_progress(finished):
    workdir, done = finished
    text = (workdir / "table1.md").read_text()
    assert text.strip() in done.stdout
    assert "[1/4] relu/seed0" in done.stdout and "[4/4] sm_sr/seed1, about" in done.stdout
    accuracies = [read_json(workdir / f"sm_sr/seed{seed}/result.json")["accuracy"] for seed in (0, 1)]
    assert f"{100 * sum(accuracies) / 2:.2f} ±" in text


def test_killed_table_ends_with_the_same_table(finished, tmp_path):
    whole, _ = finished
    workdir = tmp_path / "killed"
    # In the first run, and in the third.
    for state in ("relu/seed0/checkpoint/state.json", "relu/seed1/checkpoint/state.json"):
        process = subprocess.Popen(command(workdir), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (workdir / state).exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (workdir / "table1.md").exists()
        assert not _still_changes(workdir)
    done = run(command(workdir, f"--collect={workdir}.small"))
    assert done.returncode == 0, done.stderr
    assert "2 of 4 runs are finished" in done.stdout
    collected = [_without_times(workdir.with_name(f"{workdir.name}.small")) for workdir in (whole, workdir)]
    assert collected[0] == collected[1] and len(collected[0]) == 2 * 3 + 2 * 4
    assert (workdir / "table1.md").read_text() == (whole / "table1.md").read_text()
    again = run(command(workdir))
    assert "4 of 4 runs are finished" in again.stdout and "[1/" not in again.stdout


def _without_times(folder):
    """`{name: content}` of the files that a table collects, without what two runs of the same row differ in."""
    found = {}
    for path in folder.iterdir():
        if path.name.endswith(".history.csv"):
            found[path.name] = [
                {name: value for name, value in line.items() if name != "seconds"}
                for line in csv.DictReader(path.read_text().splitlines())
            ]
        elif path.suffix == ".csv" or path.name.endswith(".distributions.json"):
            found[path.name] = path.read_bytes()
        else:
            found[path.name] = {name: value for name, value in read_json(path).items() if name not in TIMES}
    return found


def _still_changes(workdir):
    """Whether a process that outlived the kill goes on writing."""
    time.sleep(2)
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    time.sleep(3)
    return before != {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_other_runs_in_the_workdir_are_refused_at_once(finished):
    workdir, _ = finished
    done = run(command(workdir, "--tau_0=5"))
    assert done.returncode != 0
    assert "tau_0: 10.0 there, 5.0 asked" in done.stderr and "[1/" not in done.stdout


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--rows=sm_3", "Received: sm_3"), ("--seed=3", "Expected --rows and --seeds"), ("--epochs=0", "epochs > 0")],
)
def test_flag_errors(tmp_path, flag, message):
    done = run([sys.executable, "-m", "experiments.table1", f"--workdir={tmp_path}", flag])
    assert done.returncode != 0 and message in done.stderr + done.stdout


def test_figures_of_the_small_files(finished, tmp_path):
    workdir, _ = finished
    done = run(
        [
            sys.executable, "-m", "experiments.figures", f"--runs={workdir}.small", f"--sweeps={tmp_path}",
            f"--output={tmp_path}",
        ]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    drawn = {int(path.stem.split("_")[1]) for path in tmp_path.glob("figure_*.png")}
    # The others need VGG-16's layers, other rows, or the sweeps.
    assert drawn == {2, 10, 11, 12, 13, 16, 17}
    assert all(f"figure {number}: left out" in done.stdout for number in (3, 5, 7, 8, 14))


def test_table_of_known_results():
    def result(seed, accuracy, spikes=None):
        counts = {"spikes": spikes, "spikes_per_neuron": spikes / 1e5} if spikes else {}
        return {"config": {"seed": seed}, "accuracy": accuracy, **counts}

    lines = tables.table1(
        {
            "relu": [result(0, 0.9), result(1, 0.9)],
            "sm_1": [result(2, 0.7, 15000)],
            "sm_sr_tr": [result(0, 0.80, 20000), result(1, 0.82, 22000)],
            "sm_sr_tr_tb_1e-4": [result(1, 0.80, 14700)],
        }
    ).splitlines()
    assert lines[2] == "| ReLU twin | 90.00 ± 0.00 | - | - | - | +9.00 | 2 | - | - | - | - |"
    # Changes are of the seeds that both have.
    assert lines.pop(3) == "| SM (z_max_0 = 1) | 70.00 | 1.500 | 15.0 | - | - | 1 | - | - | - | - |"
    assert lines[3].startswith("| SM+SR+TR | 81.00 ± 1.41 | 2.100 ± 0.141 | 21.0 ± 1.4 | - | - | 2 | 91.83 | 7.31 |")
    assert lines[4] == "| SM+SR+TR+TB, 1e-4 | 80.00 | 1.470 | 14.7 | -33.2 | -2.00 | 1 | 91.49 | 4.90 | -33.0 | -0.34 |"


def known(accuracies, spikes, **changed):
    """Results of the seeds 0, 1, ... with an accuracy in per cent and spikes each."""
    return [
        {
            "config": {"model": "vgg16", "seed": seed, "gamma_0": 0.3, **changed},
            "epochs": 12,
            "accuracy": accuracy / 100,
            "spikes": number,
        }
        for seed, (accuracy, number) in enumerate(zip(accuracies, spikes, strict=True))
    ]


def test_rows_are_compared_seed_by_seed():
    rows = {"sm_sr": known([80, 82, 84], [1000, 2000, 4000]), "sm_sr_tr": known([81, 84], [1100, 1800])}
    text = tables.differences_table(rows, [("sm_sr_tr", "sm_sr"), ("sm_sr_tr", "sm_1")])
    # Differences 1 and 2 points: mean 1.5, deviation 0.71, standard error 0.5. Spikes +10 and -10 %: 0, error 10.
    assert text.splitlines()[2:] == ["| SM+SR+TR | SM+SR | +1.50 ± 0.50 | 2 | +0.0 ± 10.0 | 2 |"]


def test_a_changed_setting_is_named_and_compared():
    base, changed = {"sm_sr": known([80, 82], [1000, 2000])}, {"sm_sr": known([79], [900], gamma_0=1.0)}
    text = tables.variants_table({("gamma1", "small"): (changed, base)})
    assert text.splitlines()[2:] == [
        "| gamma1 | small | SM+SR | gamma_0 = 1.0 | 12 | 79.00 | 0.090 | -1.00 | -10.0 | 1 |"
    ]
    with pytest.raises(ValueError, match="Expected sm_sr of the same seeds without the change of gamma1. Received: 0"):
        tables.variants_table({("gamma1", "small"): (changed, {})})
    changed["sm_sr"] += [{**base["sm_sr"][1], "epochs": 12}]
    with pytest.raises(
        ValueError, match=r"Expected the same change in every seed of sm_sr in gamma1. Received: .*\{\}"
    ):
        tables.variants_table({("gamma1", "small"): (changed, base)})


def result_of(config, data="digits"):
    """A result as a run writes it, in short."""
    counts = {"test_images": 1, "epochs": 1, "kept_epoch": 1, "wall_time": 1.0}
    return {"config": config.as_dict(), "data": data, "accuracy": 0.5, "val_accuracy": 0.5, **counts}


def test_a_table_tells_of_failed_runs(tmp_path, monkeypatch):
    failures = {"sm_sr/seed0": "FloatingPointError: Expected a finite loss."}
    monkeypatch.setattr(runs, "train_all", lambda *arguments, **more: ({}, failures))
    monkeypatch.setattr(commands, "changed_fields", dict)
    values = flags.FlagValues()
    table1.define_flags(values)
    values(["table1", f"--workdir={tmp_path}", "--rows=sm_sr", "--seeds=0"])
    with pytest.raises(SystemExit, match="Failed: sm_sr/seed0: FloatingPointError"):
        table1.main(values)
    told = "sm_sr/seed0 failed. FloatingPointError: Expected a finite loss."
    assert (tmp_path / "table1.md").read_text().splitlines()[-1] == told


def test_failed_runs_are_told_and_the_others_go_on(tmp_path, monkeypatch):
    def train(config, folder, data_dir, download, data, models):
        if config.seed == 1:
            raise FloatingPointError("Expected a finite loss.")
        os.makedirs(folder)
        write_json(os.path.join(folder, "result.json"), result_of(config))

    monkeypatch.setattr(runs, "_train", train)
    monkeypatch.setattr(runs, "in_new_process", lambda function, *arguments: runs._train(*arguments))
    trained, failures = runs.train_all({f"seed{seed}": Config(seed=seed) for seed in (1, 2)}, str(tmp_path))
    assert list(trained) == ["seed2"] and failures == {"seed1": "FloatingPointError: Expected a finite loss."}


def test_a_collected_run_is_not_trained_again(tmp_path, monkeypatch):
    result = result_of(Config(seed=1))
    write_json(str(tmp_path / "row.seed1.json"), result)
    monkeypatch.setattr(runs, "in_new_process", lambda *arguments: pytest.fail("trained again"))
    collect = str(tmp_path)
    assert runs.train_all({"row/seed1": Config(seed=1)}, f"{tmp_path}/new", collect=collect) == (
        {"row/seed1": result},
        {},
    )
    with pytest.raises(FileExistsError, match="seed: 1 there, 2 asked"):
        runs.train_all({"row/seed1": Config(seed=2)}, f"{tmp_path}/new", collect=collect)
    # Nor is it replaced by another run's, nor by the same run's of another place.
    os.makedirs(tmp_path / "same/row/seed1")
    write_json(str(tmp_path / "same/row/seed1/result.json"), {**result, "accuracy": 0.25})
    assert runs.train_all({"row/seed1": Config(seed=1)}, f"{tmp_path}/same", collect=collect)[0]["row/seed1"] == result
    os.makedirs(tmp_path / "other/row/seed1")
    write_json(str(tmp_path / "other/row/seed1/result.json"), result_of(Config(seed=2)))
    with pytest.raises(FileExistsError, match="seed: 1 there, 2 asked"):
        runs.train_all({"row/seed1": Config(seed=2)}, f"{tmp_path}/other", collect=collect)
    assert read_json(tmp_path / "row.seed1.json") == result


def test_runs_of_different_data_do_not_mix(tmp_path):
    for seed, data in enumerate(("digits", "digits (another copy)")):
        write_json(str(tmp_path / f"row.seed{seed}.json"), result_of(Config(seed=seed), data))
    configs = {f"row/seed{seed}": Config(seed=seed) for seed in range(2)}
    with pytest.raises(ValueError, match=r"Expected runs of one data set. Received: digits, digits \(another copy\)"):
        runs.train_all(configs, str(tmp_path / "runs"), collect=str(tmp_path))


def test_a_row_without_memory_fails_alone(monkeypatch):
    def train(*arguments, **keywords):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    monkeypatch.setattr("experiments.train.train", train)
    monkeypatch.setattr("experiments.train.make_deterministic", lambda: None)
    with pytest.raises(RuntimeError, match="out of memory"):
        runs._train(Config(), "runs/row", None, False, None, {})


def test_a_table_of_collected_runs_alone(finished, tmp_path):
    workdir, done = finished
    again = run(command(tmp_path / "new", f"--collect={workdir}.small"))
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "new/table1.md").read_text() == (workdir / "table1.md").read_text()


def test_a_process_gives_its_result_or_its_exception():
    assert processes.in_new_process(divmod, 7, 2) == (3, 1)
    with pytest.raises(ValueError, match="invalid literal"):
        processes.in_new_process(int, "seven")
    with pytest.raises(RuntimeError, match="_exit ended with exit code 3"):
        processes.in_new_process(os._exit, 3)


def test_numbers_of_small_files(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("layer,tau\nfc1,9.5\n")
    assert read_csv(path) == [{"layer": "fc1", "tau": 9.5}]
