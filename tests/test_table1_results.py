"""What the documents of experiments/ conclude from Table 1, its figures and its sweeps: a test for each number."""

import math
import pathlib
import statistics

import pytest
from absl import flags

from experiments import command, paper, report, table1
from experiments.config import differing
from experiments.figures import CONFIGURATIONS
from experiments.results import (
    RESULTS,
    accuracy_differences,
    changes_from_zero,
    last_epoch_mean,
    read_runs,
    spike_changes,
    standard_error,
    sweep_results,
    table1_failures,
    table1_results,
)

SMALL = table1_results("table1_small")
CONVERGED = table1_results("table1_converged")


def mean_and_error(values, digits):
    return round(statistics.mean(values), digits), round(standard_error(values), digits)


def test_runs_of_table_1_at_reduced_scale():
    runs = [run for runs in SMALL.values() for run in runs]
    assert [[run["config"]["seed"] for run in runs] for runs in SMALL.values()] == [[0, 1, 2]] * 7
    assert {(run["data"], run["epochs"], run["config"]["width"], run["config"]["gamma_0"]) for run in runs} == {
        ("cifar10/3.0.2", 12, 0.25, 0.3)
    }
    deviations = [statistics.stdev(100 * run["accuracy"] for run in runs) for runs in SMALL.values()]
    assert round(max(deviations), 2) == 0.53


@pytest.mark.parametrize(
    ("row", "points"),
    [
        ("sm_1", (-1.24, 0.33)),
        ("sm_2", (-2.15, 0.11)),
        ("sm_sr_tr", (-1.00, 0.06)),
        ("sm_sr_tr_tb_1e-5", (-1.37, 0.37)),
    ],
)
def test_deep_ttfs_networks_train(row, points):
    assert mean_and_error(accuracy_differences(SMALL[row], SMALL["relu"]), 2) == points


def test_what_relaxation_gains():
    gaps, without = (accuracy_differences(SMALL["sm_sr"], SMALL[row]) for row in ("sm_2", "sm_1"))
    assert mean_and_error(gaps, 2) == (1.07, 0.15) and min(gaps) > 0
    assert mean_and_error(without, 2) == (0.17, 0.16) and min(without) < 0
    assert round(statistics.mean(spike_changes(SMALL["sm_sr"], SMALL["sm_2"]))) == 11
    assert round(paper.TABLE1_ROWS["sm_sr"][1] - paper.TABLE1_ROWS["sm_2"][1], 2) == 3.62


def test_relaxation_decides_where_norms_start_at_1():
    found = table1_results("table1_small_gamma1")
    accuracy = {row: round(100 * run["accuracy"], 1) for row, (run,) in found.items()}
    assert accuracy == {"sm_1": 10.0, "sm_2": 83.1, "sm_sr": 78.7}
    assert all(accuracy_differences(runs, SMALL[row])[0] < 0 for row, runs in found.items())


def test_tr_makes_no_difference_that_three_seeds_could_show():
    assert mean_and_error(accuracy_differences(SMALL["sm_sr_tr"], SMALL["sm_sr"]), 2) == (0.07, 0.18)
    for row in ("sm_sr", "sm_sr_tr"):
        weighted = 1e-5 * last_epoch_mean("table1_small", row, "reg_tr")
        assert 0 < weighted < 1e-4 * last_epoch_mean("table1_small", row, "loss")
        for seed in range(3):
            kernels = read_runs(RESULTS / "table1_small", [row], seed)[row]["kernels"]
            taus = [line["tau"] for line in kernels]
            assert min(taus) > 9.45 and max(taus) < 10.8
    assert SMALL["sm_sr_tr"][0]["config"]["lambda_tr"] == 1e-5


def test_tb_saves_fewer_spikes_than_in_the_paper():
    small, large = (spike_changes(SMALL[row], SMALL["sm_sr_tr"]) for row in ("sm_sr_tr_tb_1e-5", "sm_sr_tr_tb_1e-4"))
    assert mean_and_error(large, 1) == (-11.3, 3.1) and max(large) < 0
    assert mean_and_error(small, 1) == (-4.0, 3.1) and max(small) > 0
    for row, changed in (("sm_sr_tr_tb_1e-5", (-0.36, 0.31)), ("sm_sr_tr_tb_1e-4", (-0.73, 0.23))):
        assert mean_and_error(accuracy_differences(SMALL[row], SMALL["sm_sr_tr"]), 2) == changed
    (_, accuracy, spikes), *rows = (paper.TABLE1_ROWS[f"sm_sr_tr{tb}"] for tb in ("", "_tb_1e-5", "_tb_1e-4"))
    assert [round(100 * (row[2] / spikes - 1)) for row in rows] == [-8, -33]
    assert [round(row[1] - accuracy, 2) for row in rows] == [0.07, -0.34]


def last_hidden_kernel(group, row):
    """The temporal kernel of the last hidden layer after the last epoch of seed 0, and how far t_d of the others ever was
    from its start."""
    run = read_runs(RESULTS / group, [row])[row]
    kernels, config = run["kernels"], run["result"]["config"]
    start = config["tau_0"] * math.log(config["z_max_0"])
    return kernels[-1], max(abs(line["t_d"] - start) for line in kernels if line["layer"] != kernels[-1]["layer"])


def test_how_the_rows_at_convergence_are_trained():
    assert not table1_failures("table1_converged")
    config = CONVERGED["relu"][0]["config"]
    assert config["target_epoch"] == config["frozen_epochs"] == config["epochs"] / 3 == 20
    assert config["warmup"] * config["epochs"] == 12


def table1_commands():
    """Of each folder of rows of Table 1, by its command in experiments/README.md: rows, seeds and changed settings."""
    found = {}
    for line in (report.ROOT / "experiments" / "README.md").read_text().splitlines():
        if not line.startswith("python -m experiments.table1 "):
            continue
        values = flags.FlagValues()
        table1.define_flags(values)
        values(line.split()[2:])
        settings = command.changed_fields(values)
        found[pathlib.Path(values.collect).name] = values.rows, list(map(int, values.seeds)), settings
    return found


def test_runs_of_table_1_are_what_their_commands_make(monkeypatch):
    monkeypatch.chdir(report.ROOT)
    commands = table1_commands()
    assert commands.keys() == {path.name for path in RESULTS.glob("table1_*")}
    for group, (rows, seeds, settings) in commands.items():
        found = table1_results(group), table1_failures(group)
        ends = {row: [run["config"] for kind in found for run in kind.get(row, [])] for row in rows}
        assert set(rows) == found[0].keys() | found[1].keys(), group
        for row, configs in ends.items():
            assert sorted(config["seed"] for config in configs) == seeds, (group, row)
            for config in configs:
                wanted = table1.row_config(row, {**settings, "seed": config["seed"]}).as_dict()
                # It is the machine's.
                assert differing(config, wanted).keys() <= {"dtype_policy"}, (group, row, config["seed"])


@pytest.mark.parametrize(
    ("row", "other", "points"),
    [
        ("sm_1", "relu", (-1.77, 0.01)),
        ("sm_2", "relu", (-1.33, 0.10)),
        ("sm_sr", "sm_1", (-0.02, 0.10)),
        ("sm_sr", "sm_2", (-0.46, 0.01)),
        ("sm_sr_tr", "sm_sr", (0.23, 0.16)),
        ("sm_sr_tr_tb_1e-4", "sm_sr_tr", (-0.32, 0.04)),
    ],
)
def test_claims_at_convergence(row, other, points):
    assert mean_and_error(accuracy_differences(CONVERGED[row], CONVERGED[other]), 2) == points


def test_more_of_the_claims_at_convergence():
    below = [
        -statistics.mean(accuracy_differences(CONVERGED[row], CONVERGED["relu"])) for row in CONVERGED if row != "relu"
    ]
    assert [round(limit(below), 1) for limit in (min, max)] == [1.3, 1.9]
    assert [round(gap, 2) for gap in accuracy_differences(CONVERGED["sm_sr_tr"], CONVERGED["sm_sr"])] == [0.07, 0.39]
    weighted = 1e-5 * last_epoch_mean("table1_converged", "sm_sr_tr", "reg_tr")
    assert round(weighted / last_epoch_mean("table1_converged", "sm_sr_tr", "loss"), 3) == 0.002


def test_what_tb_saves_at_convergence():
    small, large = (spike_changes(CONVERGED[f"sm_sr_tr_tb_{tb}"], CONVERGED["sm_sr_tr"]) for tb in ("1e-5", "1e-4"))
    assert mean_and_error(small, 1) == (0.0, 0.2) and mean_and_error(large, 1) == (-3.6, 0.4)


def test_a_second_target_epoch():
    shorter = table1_results("table1_converged_target6")["sm_sr_tr"]
    (lost,), (fewer,) = (of(shorter, CONVERGED["sm_sr_tr"]) for of in (accuracy_differences, spike_changes))
    assert (round(lost, 2), round(fewer)) == (-1.00, -4)


def test_what_the_figures_at_convergence_show():
    ends = {row: last_hidden_kernel("table1_converged", row)[0] for row in CONFIGURATIONS}
    regularised = [ends[row] for row in CONFIGURATIONS if row.startswith("sm_sr")]
    assert {round(line["t_d"]) for line in regularised} == {8} and {round(line["tau"]) for line in regularised} == {5}
    largest = [line["z_max"] for line in ends.values()]
    assert [round(limit(largest), 1) for limit in (min, max)] == [4.5, 5.4]
    kernels = {row: end_of_training(row, "table1_converged")[0] for row in CONFIGURATIONS}
    for error in ("minimum_error", "precision_error"):
        means = {row: statistics.mean(line[error] for line in lines) for row, lines in kernels.items()}
        assert max(means, key=means.get) == "sm_2"
    for row, wanted in {"sm_1": [5.4, 8.1], "sm_2": [6.3, 10.0]}.items():
        assert [round(ends[row][name], 1) for name in ("tau", "t_d")] == wanted
    low = {row: sum(line["tau"] < 9.5 for line in lines) for row, lines in kernels.items()}
    assert low.pop("sm_2") == 4 and set(low.values()) == {1}
    runs = read_runs(RESULTS / "table1_converged", CONFIGURATIONS)
    relaxed = [
        [(line["accuracy"], line["val_accuracy"]) for line in run["history"][:20]]
        for row, run in runs.items()
        if row.startswith("sm_sr")
    ]
    assert all(lines == relaxed[0] for lines in relaxed)
    losses = {row: [line["loss"] for line in run["history"]] for row, run in runs.items()}
    ends = [of_epochs[-1] for of_epochs in losses.values()]
    assert max(ends) - min(ends) < 0.03
    for epoch in range(20):
        clipped = {
            row: statistics.mean(line["maximum_error"] for line in of_epoch(run, epoch)) for row, run in runs.items()
        }
        assert max(clipped, key=clipped.get) == max(losses, key=lambda row: losses[row][epoch]) == "sm_1"
    for run in runs.values():
        before, last = (of_epoch(run, epoch)[-1] for epoch in (56, 59))
        assert last["t_d"] > before["t_d"] + 0.1 and last["tau"] < before["tau"] - 0.1


def of_epoch(run, epoch):
    return [line for line in run["kernels"] if line["epoch"] == epoch]


def test_what_figures_12_and_17_at_convergence_show():
    positive = {}
    for row in CONFIGURATIONS:
        _, centres, layers = end_of_training(row, "table1_converged")
        *others, last = [share_above(centres, {**layer, "z_max": 1.0}) for layer in layers]
        # The last bin holds all above it too.
        largest = min(layers[-1]["z_max"], centres[-2])
        assert 43 < last < 47 and 0 < share_above(centres, {**layers[-1], "z_max": largest}) < 3.1
        assert max(others) < 8 or row == "sm_2"
        below, positive[row] = pruned(centres, layers)
        assert below > 0.99 * (below + positive[row])
    others = [lost for row, lost in positive.items() if row != "sm_2"]
    assert min(positive["sm_2"] / lost for lost in others) > 2


def test_kernels_that_run_away():
    group = "table1_converged_not_frozen"
    runs = read_runs(RESULTS / group, CONFIGURATIONS)
    kernels = {row: last_hidden_kernel(group, row)[0] for row in runs}
    assert [round(kernels.pop(row)["z_max"]) for row in ("sm_1", "sm_2")] == [32, 7]
    assert [f"{limit(line['z_max'] for line in kernels.values()):.0e}" for limit in (min, max)] == ["4e+08", "4e+36"]
    assert [round(limit(line["t_d"] for line in kernels.values())) for limit in (min, max)] == [26, 32]
    assert round(max(line["tau"] for line in kernels.values()), 1) == 1.6
    for row in kernels:
        t_d = [line["t_d"] for line in runs[row]["kernels"] if line["layer"] == kernels[row]["layer"]]
        assert t_d[20] > t_d[0] + 8 and max(t_d[22:29]) < t_d[20] + 0.6 and t_d[34:] == sorted(t_d[34:])
    assert {row: [run["epochs"] for run in ended] for row, ended in table1_failures(group).items()} == {"sm_sr": [40]}
    fallen = runs["sm_sr_tr_tb_1e-5"]["history"]
    assert [round(100 * line["val_accuracy"]) for line in fallen[-3:]] == [86, 62, 9]
    assert {round(100 * runs[row]["result"]["accuracy"], 1) for row in ("sm_sr_tr", "sm_sr_tr_tb_1e-4")} == {85.1}
    moved = [last_hidden_kernel(name, row)[1] for name in (group, "table1_converged") for row in CONFIGURATIONS]
    assert max(moved) < 0.05


def test_what_holds_kernels():
    largest = [last_hidden_kernel("table1_converged", row)[0]["z_max"] for row in CONFIGURATIONS]
    assert [round(limit(largest), 1) for limit in (min, max)] == [4.5, 5.4]
    assert round(last_hidden_kernel("table1_converged_target6", "sm_sr_tr")[0]["z_max"]) == 81
    kernel, _ = last_hidden_kernel("table1_converged_lambda_tr", "sm_sr_tr")
    assert [round(kernel[name], 1) for name in ("z_max", "tau", "t_d")] == [1.3, 9.5, 2.4]
    held, base = (table1_results(f"table1_converged_{name}")["sm_sr_tr"] for name in ("lambda_tr", "not_frozen"))
    (gained,), (fewer,) = (of(held, base) for of in (accuracy_differences, spike_changes))
    assert (round(gained, 2), round(fewer)) == (0.35, -10)


def test_frozen_kernels_at_reduced_scale():
    frozen = table1_results("table1_small_frozen")["sm_sr_tr_tb_1e-5"]
    (gained,), (more,) = (of(frozen, SMALL["sm_sr_tr_tb_1e-5"]) for of in (accuracy_differences, spike_changes))
    assert (round(gained, 2), round(more)) == (0.47, 8)
    (beside,) = spike_changes(frozen, SMALL["sm_sr_tr"])
    assert round(beside) == -1


def test_what_larger_lambda_tb_save():
    found = changes_from_zero(sweep_results("sweeps_small"), "sm_sr_tr_tb_1e-5", "lambda_tb")
    changes = {value: (spikes, accuracy) for value, spikes, accuracy in found}
    assert list(changes) == [1e-5, 1e-4, 3e-4, 1e-3, 3e-3]
    assert [round(-changes[value][0]) for value in (1e-3, 3e-3)] == [18, 32]
    assert round(max(-changes[value][0] for value in (1e-5, 1e-4, 3e-4))) == 8
    assert all(accuracy > -0.5 for _, accuracy in changes.values())


def test_what_z_max_0_and_relaxation_do_with_gamma_0_of_1():
    points = sweep_results("sweeps_small")
    assert {(run["data"], run["epochs"], run["config"]["gamma_0"]) for run in points.values()} == {
        ("cifar10/3.0.2", 4, 1.0)
    }
    accuracy = {
        run["config"]["z_max_0"]: 100 * run["accuracy"] for name, run in points.items() if name.startswith("sm_2,")
    }
    assert [round(accuracy[z_max] - accuracy[1]) for z_max in (2, 4)] == [8, 10]
    assert round(100 * points["sm_sr,base"]["accuracy"] - accuracy[1]) == 2


def end_of_training(row, group="table1_small"):
    """Of seed 0: the temporal kernels behind the last epoch, and the histograms' centres and layers."""
    run = read_runs(RESULTS / group, [row])[row]
    kernels = [line for line in run["kernels"] if line["epoch"] == run["result"]["epochs"] - 1]
    low, high = run["distributions"]["edges"]
    layers = run["distributions"]["layers"]
    width = (high - low) / len(layers[0]["counts"])
    return kernels, [low + (index + 0.5) * width for index in range(len(layers[0]["counts"]))], layers


def share_above(centres, layer):
    """Of a layer's pre-activations, those above its largest level [%]."""
    counts = layer["counts"]
    return 100 * sum(count for z, count in zip(centres, counts) if z > layer["z_max"]) / sum(counts)


def test_what_the_figures_show_of_kernels():
    kernels = {row: end_of_training(row)[0] for row in CONFIGURATIONS}

    def mean(row, value):
        return statistics.mean(map(value, kernels[row]))

    def column(name):
        return {row: mean(row, lambda line: line[name]) for row in kernels}

    ranges = {row: mean(row, lambda line: line["z_max"] - line["z_min"]) for row in kernels}
    smallest, largest_error = column("z_min"), column("maximum_precision_error")
    clipped, pruned, rounded = column("maximum_error"), column("minimum_error"), column("precision_error")
    total = {row: clipped[row] + pruned[row] + rounded[row] for row in kernels}
    others = [row for row in kernels if row != "sm_2"]
    for row in others:
        assert round(ranges["sm_2"] / ranges[row], 1) == round(largest_error["sm_2"] / largest_error[row], 1) == 2.0
        assert smallest[row] < 0.05 and clipped["sm_2"] < clipped[row] / 2
    assert round(smallest["sm_2"], 2) == 0.09
    most = sorted(kernels, key=total.get)
    assert most[-2:] == ["sm_2", "sm_sr_tr_tb_1e-4"] == sorted(kernels, key=pruned.get)[-2:]
    assert min(kernels, key=rounded.get) == "sm_sr_tr_tb_1e-4"
    for row, lines in kernels.items():
        start = min(abs(line["t_d"]) for line in lines)
        moved = [line["layer"] for line in lines if abs(line["t_d"] - start) > 0.1]
        assert moved == ["dense2_activation"], row
    spread = {row: statistics.pstdev(line["tau"] for line in lines) for row, lines in kernels.items()}
    assert max(("sm_1", "sm_2", "sm_sr"), key=spread.get) == "sm_2"
    of_layers = [line for line in kernels["sm_sr_tr"] if isinstance(line["beta_mean"], float)]
    for name, better in (("tau", max), ("beta_mean", min)):
        means = {
            row: statistics.mean(line[name] for line in lines[-len(of_layers) :])
            for row, lines in kernels.items()
            if row.startswith("sm_sr")
        }
        assert better(means, key=means.get) == "sm_sr_tr_tb_1e-4"


def pruned(centres, layers):
    """Sums of |z| below the smallest levels: of z < 0, and of the others."""
    sums = {True: 0.0, False: 0.0}
    for layer in layers:
        for z, count in zip(centres, layer["counts"]):
            if z < layer["z_min"]:
                sums[z < 0] += abs(z) * count
    return sums[True], sums[False]


def test_what_the_figures_show_of_pre_activations():
    above = {}
    for row in CONFIGURATIONS:
        _, centres, layers = end_of_training(row)
        below, above_zero = pruned(centres, layers)
        assert below > 0.97 * (below + above_zero)
        found = {layer["layer"].removesuffix("_activation"): layer for layer in layers}
        above[row] = [share_above(centres, found[name]) for name in ("conv4_1", "dense1", "conv1_1", "dense2")]
        assert found["conv4_1"]["beta"] < found["conv4_1"]["z_min"]
    assert max(above.pop("sm_2")) < 1.2
    for shares in above.values():
        assert max(shares[:2]) < 0.4 and round(shares[2]) == 3 and 5.5 < shares[3] < 7.6


def test_what_figures_3_and_8_show():
    points = sweep_results("sweeps_small")
    accuracy = {name: 100 * run["accuracy"] for name, run in points.items()}
    spikes = {name: run["spikes"] for name, run in points.items()}
    by_z_max = [f"sm_2,{point}" for point in ("z_max_0=1", "z_max_0=1.5", "base", "z_max_0=3", "z_max_0=4")]
    assert [accuracy[name] for name in by_z_max] == sorted(accuracy[name] for name in by_z_max)
    assert [round(accuracy[by_z_max[place]]) for place in (0, -1)] == [68, 78]
    assert round(spikes[by_z_max[-1]] / spikes[by_z_max[0]], 2) == 1.12
    assert max(spikes[f"sm_sr,tau_0={tau}"] for tau in (15, 20)) < 0.8 * spikes["sm_sr,base"]
    assert accuracy["sm_sr,tau_0=20"] < accuracy["sm_sr,base"] - 4
    by_tr = [value for name, value in accuracy.items() if name.startswith("sm_sr_tr,")]
    assert len(by_tr) == 6 and max(by_tr) - min(by_tr) < 2


def test_what_the_recipe_of_60_epochs_was_chosen_by():
    found = {name.split(",")[1]: run for name, run in sweep_results("recipe_converged").items()}
    chosen = found.pop("base")
    settings = command.config_from_flagfile(table1.FLAGFILES / "converged.flags").as_dict()
    for name in ("model", "pooling", "width", "optimizer", "learning_rate", "schedule", "gamma_0", "batch_size"):
        assert settings[name] == chosen["config"][name]
    below = {point: round(100 * (chosen["val_accuracy"] - run["val_accuracy"])) for point, run in found.items()}
    assert below == {"adam=0.005": 1, "adam=0.002": 7, "adam=0.001": 15}
    assert {run["epochs"] for run in (chosen, *found.values())} == {12}
