"""The rows of fast_vgg: their flagfiles, their table, the figure and what the documents print of them."""

import re
import types

import keras
import pytest

from experiments import chain, command, fast, fast_tables, frontier, paper, report, results, train
from experiments.files import read_json, write_json
from experiments.workdir import made_here
from keras_ttfs import applications
from tests import fast_results

GPU = ("gpu_95_relu", "gpu_95")


def cells(text, name):
    """`{column: text}` of the line of a table that begins with a name."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return dict(zip(lines[0], next(line for line in lines if line[0] == name)))


@pytest.fixture
def folder(tmp_path):
    return fast_results.write(tmp_path / "fast_cifar")


def test_every_row_has_its_flagfile():
    there = {path.stem for path in fast.TABLE.folder.glob("*.flags")}
    assert there == {*fast_tables.TWINS, *GPU}


def test_rows_begin_from_their_twin_or_from_the_longer_window():
    begins = {row: list(fast.TABLE.begins_from(row).values()) for row in fast.TABLE.rows}
    assert begins == {
        "relu": [],
        "t16": ["relu"],
        "t8": ["t16", "relu"],
        "budget": ["t16", "relu"],
        "fewest": ["t16", "relu"],
        "base2": ["relu"],
        "shift": ["relu"],
        "hardened": ["t16", "relu"],
        "untaught": ["relu"],
        "scratch": [],
        "t8_at_once": ["relu"],
        "cifar100_relu": [],
        "cifar100_t16": ["cifar100_relu"],
    }
    for row, twin in fast_tables.TWINS.items():
        config = fast.row_config(row)
        assert config.activation == ("ttfs" if twin else "relu")
        assert config.dataset == ("cifar100" if row.startswith("cifar100") else "cifar10")
        assert config.model == "fast_vgg" and config.pooling == "potential"
    assert [fast.row_config(row).time_window for row in ("t16", "t8", "budget")] == [16, 8, 16]


def test_rows_bring_those_that_they_begin_from_and_their_models():
    wanted = fast.configs(["t8"], [0, 1], {"epochs": 1})
    assert list(wanted) == ["relu/seed0", "t16/seed0", "t8/seed0", "relu/seed1", "t16/seed1", "t8/seed1"]
    assert {config.epochs for config in wanted.values()} == {1}
    models = fast.TABLE.models(wanted, "w")
    assert list(models["t8/seed1"].values()) == ["w/t16/seed1/model.keras", "w/relu/seed1/model.keras"]
    assert models["relu/seed0"] == {} and list(models["t16/seed0"].values()) == ["w/relu/seed0/model.keras"]
    assert models["t8/seed1"].keys() == {wanted["t8/seed1"].start_from, wanted["t8/seed1"].teacher}


def test_one_command_reproduces_the_row():
    path = command.ROOT / "experiments/flagfiles/fast_cifar10.flags"
    lines = path.read_text().splitlines()
    assert "--workdir=runs/fast_cifar10" in lines
    (included,) = (line.partition("=")[2] for line in lines if line.startswith("--flagfile="))
    assert command.config_from_flagfile(included) == fast.row_config("t16")
    configs, models = chain.runs_before(fast.row_config("t16", {"seed": 2}), "w")
    assert configs == {"start": fast.row_config("relu", {"seed": 2})}
    assert list(models[""].values()) == ["w/start/model.keras"]


def test_the_cost_of_the_gpu_flagfile_is_computed():
    text = (fast.TABLE.folder / "gpu_95.flags").read_text()
    found = re.search(r"Cost: (\S+) PFLOP .* and (\S+) PFLOP for this one: 6 x (\S+) multiply-adds x 49,000", text)
    network = applications.fast_vgg
    for row, told in zip(GPU, found.groups()):
        config = fast.row_config(row)
        model = network((32, 32, 3), 10, **train.network_arguments(config, network))
        made = {"multiply_adds": train.multiply_adds(model), "training_images": 50000 - config.validation_images}
        made["epochs"] = config.epochs
        assert f"{made['multiply_adds']:,}" == found[3]
        assert f"{fast_tables.training_operations({**made, 'config': config.as_dict()}) / 1e15:.2f}" == told
        assert (config.width, config.cutout, config.translation) == (2.0, 12, 4)
        assert config.dtype_policy == "mixed_bfloat16"
    assert fast.row_config("gpu_95_relu").epochs == 40 and "Not run here" in text


def test_multiply_adds_of_a_network_and_of_its_twin():
    """Of a 3x3 convolution with a border: 9 products for each pixel, less those with the border."""
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.ReLU()(keras.layers.Conv2D(2, 3, padding="same", use_bias=False)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    model.encoders = []
    assert train.multiply_adds(model) == 2 * (4 * 9 + 8 * 6 + 4 * 4) + 32 * 3
    for pooling in ("spikes", "potential"):
        counts = {
            train.multiply_adds(applications.fast_vgg(width=0.05, activation=activation, pooling=pooling))
            for activation in ("relu", "ttfs")
        }
        assert len(counts) == 1 and counts.pop() > 0
    assert train.multiply_adds(applications.spike_time_vgg6(width=0.05)) is None


def test_the_table_of_made_up_results(folder):
    text = fast_tables.fast_table(fast_tables.read_rows(folder))
    relu, t16, t8 = (cells(text, name) for name in ("ReLU twin", "TTFS, T = 16", "TTFS, T = 8"))
    assert relu["accuracy [%]"] == "93.20 ± 0.14" and relu["spikes"] == relu["gap to the twin [points]"] == "-"
    assert t16["gap to the twin [points]"] == "-0.40 ± 0.14" and t8["gap to the twin [points]"] == "-1.00"
    assert t16["spikes"] == "19,000 ± 1" and t8["spikes"] == "18,000" and t16["membranes"] == "99,338"
    assert (t8["time steps"], t8["decision step"], t16["seeds"]) == ("72", "64", "0, 1")
    epochs = [fast.row_config(row).epochs for row in ("relu", "t16", "t8")]
    passes = (6, 8, 8)  # Two more for the teacher.
    for rows, line in ((1, relu), (2, t16), (3, t8)):
        cost = sum(one * number for one, number in zip(passes[:rows], epochs[:rows]))
        assert line["PFLOP to train"] == f"{cost * 1e8 * 45000 / 1e15:.2f}"
    for count, line in zip((epochs[0], sum(epochs[:2]), sum(epochs)), (relu, t16, t8)):
        assert line["to the end"] == line["minutes to 92 %"] == str(count)
        assert line["minutes to 90 %"] == str(count - 1)
    printed = cells(text, "paper: CIFAR-10, lambda_TB = 1e-5")
    assert (printed["accuracy [%]"], printed["spikes"], printed["time steps"]) == ("91.90", "67,400", "544")
    assert cells(text, "paper: CIFAR-100, lambda_TB = 1e-5")["accuracy [%]"] == "65.98"


def test_rows_that_are_not_there_are_not_printed_and_costs_are_not_guessed(tmp_path):
    folder = fast_results.write(tmp_path / "some", ("t16", "t8"))
    text = fast_tables.fast_table(fast_tables.read_rows(folder))
    assert len(text.splitlines()) == 2 + 2 + 1 and "ReLU" not in text and "CIFAR-100" not in text
    for name in ("TTFS, T = 16", "TTFS, T = 8"):
        line = cells(text, name)
        assert line["PFLOP to train"] == line["to the end"] == line["gap to the twin [points]"] == "-"


def test_a_run_that_names_a_model_has_the_cost_of_its_row(folder):
    path = folder / "t16.seed1.json"
    made = read_json(path)
    made["config"]["start_from"] = "runs/fast/relu/seed1/model.keras"
    write_json(path, made, sealed=True)
    rows = fast_tables.read_rows(folder)
    run = next(run for run in rows["t16"] if run["result"]["config"]["seed"] == 1)
    assert [part["result"]["config"]["activation"] for part in fast_tables.chain_of(run, rows)] == ["relu", "ttfs"]
    assert fast_tables.chain_of(run, {**rows, "relu": rows["relu"][:1]}) is None


def test_a_teacher_costs_one_more_pass_and_old_results_tell_no_cost():
    made = {"multiply_adds": 10, "training_images": 2, "epochs": 3, "config": {"teacher": "model.keras"}}
    assert fast_tables.training_operations(made) == 8 * 60
    assert fast_tables.training_operations({**made, "config": {}}) == 6 * 60
    assert fast_tables.training_operations({"epochs": 3, "config": {}}) is None


def test_results_of_other_data_are_refused(folder):
    path = folder / "t16.seed1.json"
    write_json(path, {**read_json(path), "data": "other images"}, sealed=True)
    with pytest.raises(ValueError, match="Expected one data in fast_cifar. Received: cifar10, made up, other images"):
        fast_tables.read_rows(folder)


def test_sections_of_the_documents(folder, monkeypatch):
    assert fast_tables.fast_section(folder.parent / "nothing") == []
    (only,) = fast_tables.fast_section(folder)
    assert fast_results.DEVICE in only and "frontier.png" not in only
    fast_results.write_published(folder)
    (folder / "frontier.png").write_bytes(b"")
    table, picture, weights = fast_tables.fast_section(folder)
    assert table == only and picture.endswith("(results/fast_cifar/frontier.png)")
    line = cells(weights.partition("\n\n")[2], "`fast_vgg_cifar10.npz`")
    assert (line["accuracy [%]"], line["spikes"], line["of images"]) == ("92.61", "19,001", "200")
    monkeypatch.setattr(report, "read_rows", lambda: fast_tables.read_rows(folder))
    first = report.summary_section().splitlines()[2:4]
    assert [line.split("|")[2].strip() for line in first] == ["ReLU twin", "TTFS, T = 16"]


def test_the_table_of_the_command_reads_both_places(folder, tmp_path):
    rows = fast_tables.read_rows(folder)
    found = {"t16/seed0": rows["t16"][0]["result"], "relu/seed0": rows["relu"][0]["result"]}
    run = tmp_path / "work" / "relu" / "seed0"
    run.mkdir(parents=True)
    (folder / "relu.seed0.history.csv").rename(run / "history.csv")
    options = types.SimpleNamespace(workdir=str(tmp_path / "work"), collect=str(folder))
    line = cells(fast.TABLE.text(found, options), "TTFS, T = 16")
    assert line["to the end"] == str(sum(fast.row_config(row).epochs for row in ("relu", "t16")))


def test_the_figure(folder, tmp_path, capsys):
    points = frontier.points_of(fast_tables.read_rows(folder))
    assert list(points) == ["TTFS, T = 16", "TTFS, T = 8", "TTFS, T = 16, 14,000 spikes"]
    assert points["TTFS, T = 16"]["accuracy"] == pytest.approx((92.8, 0.2828), abs=1e-3)
    assert points["TTFS, T = 8"]["spikes"] == (18000, 0) and points["TTFS, T = 8"]["time_steps"] == (72, 0)
    options = types.SimpleNamespace(results=str(folder), output=str(tmp_path / "out"), overwrite=False)
    frontier.main(options)
    assert made_here(str(tmp_path / "out" / "frontier.png")) and "frontier.png" in capsys.readouterr().out
    options.results = str(fast_results.write(tmp_path / "relu", ("relu", "cifar100_t16")))
    with pytest.raises(FileNotFoundError, match="Expected results of spiking rows on cifar10"):
        frontier.main(options)


def test_what_others_print():
    names = {work[0]: work[1:] for work in paper.OTHERS}
    assert names["the paper, lambda_TB = 1e-5"] == (91.90, pytest.approx(67400), 544)
    assert names["T2FSNN"] == (91.43, 69_000, 680)
    table2 = {row[0]: row for row in paper.TABLE2["cifar10"].values()}
    for work, row in (
        ("the paper, lambda_TB = 1e-5", "Park & Yoon, lambda_TB = 1e-5"),
        ("T2FSNN", "Park et al. 2020, T2FSNN"),
    ):
        accuracy, spikes, time_steps = names[work]
        assert (accuracy, time_steps) == table2[row][3:5] and spikes / 1e6 == pytest.approx(table2[row][5], abs=5e-4)
    assert results.RESULTS.is_dir()
