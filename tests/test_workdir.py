"""Directories that commands write to: what --overwrite removes, the lock, leftovers of killed writers, room on the disk."""

import collections
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from experiments import benchmark, command, data, figures, runs, simulate, train
from experiments.checkpoint import Checkpoint, check_room
from experiments.config import FIELDS, Config, differences
from experiments.files import check_space, read_json, replaced, write_json, write_text
from experiments.lock import LOCK, locked
from experiments.workdir import SIMULATION_FILES, check_made, check_workdir, claim_workdir

# Real directories, processes and kills.
pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"
OLD, NEW = Config(seed=1), Config(seed=2)
TINY = Config(activation="relu", width=0.05, train_images=64, batch_size=32, epochs=20, dropout=0.5)
OURS = (
    "result.json",
    "failure.json",
    "history.csv",
    "kernels.csv",
    "distributions.json",
    "model.keras",
    "learning_curves.png",
    "spikes_by_layer.png",
    "kernels.png",
    "conversion.json",
    "checkpoint/state.json",
    "checkpoint/epoch-00001.weights.h5",
    "checkpoint/epoch-00123.weights.h5",
    "tensorboard/train/events.out.tfevents.1795642232.vm.836.0.v2",
    "tensorboard/validation/events.out.tfevents.1795642233.vm.836.1.v2",
    *(f"simulation_event/{name}" for name in SIMULATION_FILES),
    *(f"simulation_clock/{name}" for name in SIMULATION_FILES),
)


def put(path, text="years of work"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def a_run(workdir, config=OLD):
    """A directory that holds every file that a run of ours writes."""
    workdir.mkdir(parents=True)
    write_json(workdir / "config.json", config.as_dict())
    for name in OURS:
        put(workdir / name, "ours")
    return workdir


def tree(folder):
    """`{path: content}` of everything in a directory; links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        link, file = path.is_symlink(), path.is_file()
        found[str(path.relative_to(folder))] = os.readlink(path) if link else path.read_bytes() if file else None
    return found


def linked(name):
    """Puts something of ours elsewhere, and a link in its place."""

    def change(workdir):
        elsewhere = workdir.parent / "elsewhere"
        shutil.move(workdir / name, elsewhere)
        (workdir / name).symlink_to(elsewhere)

    return change


def instead(name, make):
    def change(workdir):
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return change


FOREIGN = {
    name: lambda workdir, name=name: put(workdir / name)
    for name in (
        "thesis.tex", "notes.txt", "data.json", "config.json.bak", "result.json~", "Result.json", "figure_2.png", "run.keras",
        "thesis/chapter.tex", ".git/HEAD", ".partial-thesis", ".partial-1-thesis.tex", ".lock", "events.out.tfevents.1",
        "checkpoint/notes.txt", "checkpoint/best.weights.h5", "checkpoint/epoch-1.weights.h5", "checkpoint/old/state.json",
        "simulation_event/paper.pdf", "simulation_event/more/simulation.json", "simulation_other/simulation.json",
        "tensorboard/notes.txt", "tensorboard/train/plugins/profile/trace", "tensorboard/test/events.out.tfevents.1",
    )
}  # fmt: skip
FOREIGN |= {
    f"link for {name}": linked(name) for name in ("result.json", "model.keras", "checkpoint", "tensorboard/train")
}
FOREIGN |= {
    "empty directory": lambda workdir: (workdir / "drafts").mkdir(),
    "link to nothing": lambda workdir: (workdir / "drafts").symlink_to("nowhere"),
    "link in checkpoint": lambda workdir: (workdir / "checkpoint" / "drafts").symlink_to("/"),
    "directory model.keras": instead("model.keras", lambda path: put(path / "thesis.tex")),
    "directory result.json": instead("result.json", lambda path: put(path / "thesis.tex")),
    "file checkpoint": instead("checkpoint", put),
    "file tensorboard": instead("tensorboard", put),
    "pipe": instead("kernels.png", os.mkfifo),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_overwrite_removes_nothing_where_anything_is_foreign(tmp_path, name):
    workdir = a_run(tmp_path / "run")
    FOREIGN[name](workdir)
    if name == "pipe":
        assert not check_workdir(OLD, str(tmp_path / "new"))
        found = sorted(os.listdir(workdir))
    else:
        before = tree(tmp_path)
    with pytest.raises(FileExistsError, match="Expected --workdir to hold nothing but files of ours") as caught:
        claim_workdir(NEW, str(workdir), overwrite=True)
    assert (found == sorted(os.listdir(workdir))) if name == "pipe" else (tree(tmp_path) == before)
    words = str(caught.value).split(" with ")[1]
    assert (
        any(part in words for part in (name, *name.split("/"), *name.split()))
        or "drafts" in words
        or "kernels" in words
    )


FOREIGN_CONFIGS = {
    "other fields": {"editor": "vim"},
    "a field less": {name: value for name, value in OLD.as_dict().items() if name != "seed"},
    "a field more": {**OLD.as_dict(), "thesis": "years of work"},
    "wrong values": {**OLD.as_dict(), "epochs": "many"},
    "list": [OLD.as_dict()],
    "text": "config",
}


@pytest.mark.parametrize("name", FOREIGN_CONFIGS)
def test_overwrite_removes_nothing_where_config_json_is_of_something_else(tmp_path, name):
    workdir = a_run(tmp_path / "run")
    write_json(workdir / "config.json", FOREIGN_CONFIGS[name])
    before = tree(tmp_path)
    for overwrite in (True, False):
        with pytest.raises(ValueError, match=r"Expected .*config.json to hold the config of a run. Received: "):
            claim_workdir(NEW, str(workdir), overwrite=overwrite)
    assert tree(tmp_path) == before


def test_a_directory_without_config_json_is_refused(tmp_path):
    for name in ("thesis.tex", "result.json", "checkpoint/state.json", ".partial-thesis"):
        put(tmp_path / name.split("/")[0].strip(".") / name)
        workdir = tmp_path / name.split("/")[0].strip(".")
        before = tree(workdir)
        with pytest.raises(FileExistsError, match="Expected a workdir that is new or empty. Received: .*other files: "):
            claim_workdir(NEW, str(workdir), overwrite=True)
        assert tree(workdir) == before


@pytest.mark.parametrize("ending", ["", "/", "/.", "/checkpoint/.."])
def test_a_linked_workdir_is_not_emptied(tmp_path, ending):
    workdir = a_run(tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match="Expected --workdir to be a directory itself.*a symbolic link to run"):
        claim_workdir(NEW, f"{tmp_path}/link{ending}", overwrite=True)
    assert tree(tmp_path) == before
    # What needs no removal is done there.
    claim_workdir(NEW, str(tmp_path / "fresh"))
    (tmp_path / "to_fresh").symlink_to("fresh")
    claim_workdir(NEW, f"{tmp_path}/to_fresh{ending.replace('/checkpoint/..', '')}")
    assert workdir.exists()


def test_overwrite_replaces_all_that_a_run_writes(tmp_path):
    workdir = a_run(tmp_path / "run")
    put(tmp_path / "thesis.tex")
    claim_workdir(NEW, str(workdir), overwrite=True)
    assert list(tree(workdir)) == ["config.json"] and read_json(workdir / "config.json")["seed"] == 2
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_runs_of_earlier_versions_are_ours(tmp_path):
    old = {name: value for name, value in OLD.as_dict().items() if name != "relaxation"}
    removed = {**OLD.as_dict(), "jit_compile": True}
    assert differences(removed, OLD.as_dict()) == ""
    for number, values in enumerate((old, removed, {**OLD.as_dict(), "activation": "spike_time"})):
        workdir = a_run(tmp_path / str(number))
        write_json(workdir / "config.json", values)
        with pytest.raises(FileExistsError, match=r"another run in config.json \("):
            claim_workdir(NEW, str(workdir))
        claim_workdir(NEW, str(workdir), overwrite=True)
        assert list(tree(workdir)) == ["config.json"]
    assert len(FIELDS) == 52, "a new field of Config belongs in config.ADDED_FIELDS"


def test_an_unwritable_directory_is_left_whole(tmp_path, monkeypatch):
    workdir = a_run(tmp_path / "run")
    before = tree(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("checkpoint"))
    with pytest.raises(
        PermissionError, match=r"Expected to write in --workdir. Received: .*checkpoint. Nothing was removed"
    ):
        claim_workdir(NEW, str(workdir), overwrite=True)
    assert tree(tmp_path) == before


def test_a_run_is_not_replaced_while_its_simulation_is_under_way(tmp_path):
    workdir = a_run(tmp_path / "run")
    before = tree(tmp_path)
    message = f"simulation_event, in which process {os.getpid()} on .* is at work"
    with locked(str(workdir / "simulation_event")), pytest.raises(FileExistsError, match=message):
        claim_workdir(NEW, str(workdir), overwrite=True)
    assert tree(tmp_path) == before


def test_a_finished_run_leaves_what_is_not_ours_in_its_checkpoint(tmp_path):
    workdir = tmp_path / "run"
    claim_workdir(TINY, str(workdir))
    checkpoint = Checkpoint(str(workdir), TINY, data.load("digits"))
    ours = ("state.json", "epoch-00001.weights.h5", "epoch-00002.weights.h5")
    for name in (*ours, "mine.weights.h5", "notes.txt"):
        put(workdir / "checkpoint" / name)
    checkpoint.remove()
    assert sorted(os.listdir(workdir / "checkpoint")) == ["mine.weights.h5", "notes.txt"]
    for name in ours:
        put(tmp_path / "second" / "checkpoint" / name)
    Checkpoint(str(tmp_path / "second"), TINY, data.load("digits")).remove()
    assert not (tmp_path / "second" / "checkpoint").exists()


def simulation(folder, **changes):
    folder.mkdir()
    for name in SIMULATION_FILES[1:]:
        put(folder / name, "picture")
    write_json(folder / "simulation.json", {**read_json(RESULTS / "digits" / "digits.simulation.json"), **changes})


def test_a_simulation_replaces_nothing_but_a_simulation(tmp_path):
    for name in ("ours", "thesis", "foreign", "pictures", "link"):
        simulation(tmp_path / name)
    put(tmp_path / "thesis" / "thesis.tex")
    write_json(tmp_path / "foreign" / "simulation.json", {"editor": "vim"})
    (tmp_path / "pictures" / "simulation.json").unlink()
    (tmp_path / "link" / "spike_raster.png").unlink()
    (tmp_path / "link" / "spike_raster.png").symlink_to("/etc/hostname")
    before = tree(tmp_path)
    for name in os.listdir(tmp_path):
        with pytest.raises(FileExistsError, match="Expected an output_dir without a simulation. Received: "):
            simulate.check_output(str(tmp_path / name), overwrite=False)
    for name, message in (
        ("thesis", "Expected --output_dir to hold nothing but files of ours .* with thesis.tex"),
        ("foreign", "Expected .*simulation.json to hold data, mode"),
        ("link", "Expected --output_dir to hold nothing but files of ours .* with spike_raster.png"),
    ):
        with pytest.raises((FileExistsError, ValueError), match=message):
            simulate.check_output(str(tmp_path / name), overwrite=True)
    assert tree(tmp_path) == before
    simulate.check_output(str(tmp_path / "ours"), overwrite=True)
    simulate.check_output(str(tmp_path / "pictures"), overwrite=True)
    (tmp_path / "notes").mkdir()
    put(tmp_path / "notes" / "notes.txt")
    simulate.check_output(str(tmp_path / "notes"), overwrite=False)


def test_pictures_and_tables_of_others_are_not_replaced(tmp_path):
    from experiments import plots

    figure, _ = plots.panels()
    ours, theirs = tmp_path / "figure_2.png", tmp_path / "figure_3.png"
    plots.save(figure, str(ours))
    figure.savefig(theirs, metadata={"Software": "another program"})
    check_made([str(ours), str(tmp_path / "figure_4.png")])
    write_text(tmp_path / "table1.md", "| row | accuracy [%] |\n| --- | --- |\n")
    check_made([str(tmp_path / "table1.md")])
    put(tmp_path / "table2.md")
    (tmp_path / "link.png").symlink_to(ours)
    for name in ("figure_3.png", "table2.md", "link.png"):
        with pytest.raises(
            FileExistsError, match=f"Expected .*{name} to be new, or made by this command. Received: a "
        ):
            check_made([str(tmp_path / name)])
    options = types.SimpleNamespace(
        runs=str(RESULTS / "table1_small"),
        sweeps=str(tmp_path),
        seed=0,
        output=str(tmp_path),
        overwrite=False,
        figures=list(figures.FIGURES),
    )
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match="figure_3.png to be new, .* pass --overwrite"):
        figures.main(options)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["foreign", "list", "link", "directory"])
def test_overwrite_of_a_job_replaces_a_result_of_its_kind_only(tmp_path, kind):
    path = tmp_path / "result.json"
    if kind == "link":
        write_json(tmp_path / "elsewhere.json", {"rows": []})
        path.symlink_to("elsewhere.json")
    elif kind == "directory":
        put(path / "thesis.tex")
    else:
        write_json(path, {"foreign": {"editor": "vim"}, "list": ["years of work"]}[kind])

    def read(file):
        from experiments.files import LIST
        from experiments.stored import read_any

        return read_any(file, {"rows": LIST})

    before = tree(tmp_path)
    job = runs.Job("a", str(path), lambda results: pytest.fail("made"), read=read, overwrite=True)
    with pytest.raises((ValueError, FileExistsError), match=r"Expected .*result.json to "):
        runs.run_jobs([job], "here")
    assert tree(tmp_path) == before


def test_a_benchmark_is_not_drawn_beside_other_files(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "PARTS", dict.fromkeys(benchmark.PARTS, lambda options: pytest.fail("measured")))
    write_json(tmp_path / "training_notes.json", {"editor": "vim"})
    options = types.SimpleNamespace(
        output=str(tmp_path),
        parts=["training"],
        network="vgg16",
        pooling="spikes",
        overwrite=True,
        dtype_policy="float32",
        width=1.0,
        batch_size=8,
    )
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"Expected .*training_notes.json to hold versions"):
        benchmark.main(options)
    (tmp_path / "training_notes.json").unlink()
    put(tmp_path / "sweep.png")
    with pytest.raises(FileExistsError, match=r"Expected .*sweep.png to be new, or made by this command"):
        benchmark.main(options)
    assert tree(tmp_path).keys() == {"sweep.png"} and before.keys() == {"training_notes.json"}


def test_a_collected_file_of_something_else_is_not_replaced(tmp_path):
    shutil.copytree(RESULTS / "digits", tmp_path / "run")
    result = (tmp_path / "run" / "digits.json").rename(tmp_path / "run" / "result.json")
    (tmp_path / "run" / "digits.history.csv").rename(tmp_path / "run" / "history.csv")
    put(tmp_path / "small" / "row.seed0.history.csv")
    collected = str(tmp_path / "small" / "row.seed0.json")
    config = read_json(result)["config"]
    job = runs.Job("row", str(result), lambda results: None, config, "config", collected=collected)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"Expected .*row.seed0.history.csv to hold "):
        runs.run_jobs([job], "here")
    assert tree(tmp_path) == before


def test_writers_replace_files_only(tmp_path):
    put(tmp_path / "thesis.tex")
    (tmp_path / "result.json").symlink_to("thesis.tex")
    (tmp_path / "history.csv").mkdir()
    for name, what in (("result.json", "a symbolic link to thesis.tex"), ("history.csv", "a directory")):
        with pytest.raises(FileExistsError, match=f"Expected .*{name} to be a file, or nothing. Received: {what}"):
            write_text(tmp_path / name, "new")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


# Where a directory cannot be.


def test_paths_that_can_be_no_workdir(tmp_path):
    put(tmp_path / "file")
    (tmp_path / "nowhere").symlink_to("nothing")
    cases = {
        "": "Expected --workdir to be the path of a directory. Received: --workdir=''",
        str(tmp_path / "file"): "Expected --workdir to be a directory. Received: .*file is a file.",
        str(tmp_path / "file" / "run"): "Expected --workdir to be a directory. Received: .*file is a file.",
        str(tmp_path / "nowhere"): "Expected --workdir to be a directory. .* is a symbolic link to nothing.",
        str(tmp_path / "nowhere" / "run"): "Expected --workdir to be a directory. .* a symbolic link to nothing.",
        str(tmp_path / ("x" * 300)): "Expected --workdir to be a directory that can be made. Received: .*too long",
    }
    for path, message in cases.items():
        with pytest.raises((ValueError, OSError), match=message):
            train.train(TINY, path)
    with pytest.raises(
        FileExistsError, match="Expected the directory of results to be a directory. Received: .* a file"
    ):
        runs.train_all({"a": TINY}, str(tmp_path / "runs"), collect=str(tmp_path / "file"))
    assert sorted(os.listdir(tmp_path)) == ["file", "nowhere"]


def test_a_directory_that_cannot_be_made_or_written_to_is_told(tmp_path, monkeypatch):
    def denied(*arguments, **keywords):
        raise PermissionError(13, "Permission denied", arguments[0])

    with monkeypatch.context() as patch:
        patch.setattr(os, "makedirs", denied)
        with pytest.raises(PermissionError, match="Expected --workdir to be a directory that can be made.*Permission"):
            train.train(TINY, str(tmp_path / "a" / "b"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", denied)
        with pytest.raises(
            PermissionError, match="Expected --workdir to be a directory that can be written to.*Permission"
        ):
            train.train(TINY, str(tmp_path / "a" / "b"))
    assert os.listdir(tmp_path) == []


def test_a_data_dir_that_is_no_directory(tmp_path):
    put(tmp_path / "file")
    for path in (str(tmp_path / "file"), "", str(tmp_path / "file" / "x")):
        with pytest.raises((FileExistsError, FileNotFoundError), match="Expected .*--data_dir"):
            data.load("cifar10", path)


def test_list_flags_of_whole_numbers():
    assert command.whole_numbers("seeds", ["0", "12"]) == [0, 12]
    for values in (["x"], ["1.5"], ["-1"], [""], []):
        with pytest.raises(ValueError, match="Expected --seeds of whole numbers. Received: '"):
            command.whole_numbers("seeds", values)


# The lock.

HOLD = (
    "import sys, time\n"
    "from experiments.lock import locked\n"
    "with locked(sys.argv[1]):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)
# Four processes start at the same moment, ten times. Each tells of each round whether it had the lock.
RACE = (
    "import multiprocessing, sys, time\n"
    "from experiments.lock import locked\n"
    "def start(folder, before, after, wins):\n"
    "    for number in range(10):\n"
    "        before.wait()\n"
    "        try:\n"
    "            with locked(f'{folder}/{number}'):\n"
    "                with wins.get_lock():\n"
    "                    wins[number] += 1\n"
    "                after.wait()\n"
    "        except FileExistsError:\n"
    "            after.wait()\n"
    "context = multiprocessing.get_context('fork')\n"
    "before, after, wins = context.Barrier(4), context.Barrier(4), context.Array('i', 10)\n"
    "args = sys.argv[1], before, after, wins\n"
    "processes = [context.Process(target=start, args=args) for _ in range(4)]\n"
    "for process in processes: process.start()\n"
    "for process in processes: process.join()\n"
    "print(list(wins))\n"
)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path/run`."""
    arguments = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_and_a_dead_ones_lock_taken_over(tmp_path, holder):
    workdir = str(tmp_path / "run")
    message = (
        f"Expected --workdir to be used by one process at a time. Received: .*run, in which process {holder.pid} on "
    )
    begun = time.monotonic()
    with pytest.raises(FileExistsError, match=message) as caught:
        train.train(TINY, workdir)
    assert (
        time.monotonic() - begun < 2
        and f"kill {holder.pid}" in str(caught.value)
        and os.uname()[1] in str(caught.value)
    )
    assert os.listdir(workdir) == [LOCK]
    holder.kill()
    holder.wait()
    assert os.listdir(workdir) == [LOCK], "of a dead process"
    assert not check_workdir(TINY, workdir), "a new directory all the same"
    with locked(workdir):
        assert read_json(pathlib.Path(workdir, LOCK))["pid"] == os.getpid()
        with pytest.raises(FileExistsError, match=f"in which process {os.getpid()} on "):
            train.train(TINY, workdir)
    assert os.listdir(workdir) == []


@pytest.mark.slow
def test_of_simultaneous_starts_exactly_one_wins(tmp_path):
    for stale in (False, True):
        folder = tmp_path / str(stale)
        for number in range(10 * stale):
            # Of an earlier boot: its process number may be another process's by now.
            put(folder / str(number) / LOCK, f'{{"pid": {os.getpid()}, "host": "{os.uname()[1]}"}}')
        done = subprocess.run([sys.executable, "-c", RACE, str(folder)], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.strip() == str([1] * 10), done.stderr
        assert not any(path.is_file() for path in folder.rglob("*"))


@pytest.mark.slow
def test_commands_refuse_a_held_workdir_with_one_line(tmp_path, holder):
    program = [sys.executable, "-m", "experiments.cifar", f"--workdir={tmp_path / 'run'}", "--train_images=64"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith(("FileExistsError", "Traceback"))]
    assert done.returncode == 1 and len(lines) == 1 and f"process {holder.pid} on" in lines[0], done.stderr
    assert holder.poll() is None and os.listdir(tmp_path / "run") == [LOCK]


def test_a_lock_makes_and_removes_no_more_than_it_needs(tmp_path):
    with pytest.raises(KeyError), locked(str(tmp_path / "a" / "b")):
        raise KeyError
    assert os.listdir(tmp_path) == []
    with locked(str(tmp_path / "a" / "b")):
        put(tmp_path / "a" / "result.json")
    assert list(tree(tmp_path)) == ["a", "a/result.json"]
    put(tmp_path / "a" / LOCK)
    message = "to be a lock of this project. Received: a file of something else"
    with pytest.raises(FileExistsError, match=message), locked(str(tmp_path / "a")):
        pass
    assert (tmp_path / "a" / LOCK).read_text() == "years of work"
    (tmp_path / "a" / LOCK).unlink()
    (tmp_path / "a" / LOCK).symlink_to("result.json")
    message = "Expected --workdir to be a directory that can be written to"
    with pytest.raises(OSError, match=message), locked(str(tmp_path / "a")):
        pass
    assert (tmp_path / "a" / "result.json").read_text() == "years of work"


# Leftovers.


@pytest.fixture
def dead():
    """Number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_leftovers_of_dead_writers_are_removed_at_the_next_start(tmp_path, dead):
    workdir = tmp_path / "run"
    claim_workdir(OLD, str(workdir))
    ours = ("config.json", "result.json", "model.keras", "kernels.png", "history.csv", "conversion.json")
    ours += ("checkpoint/epoch-00003.weights.h5", "checkpoint/state.json", "simulation_event/spike_raster.png")
    paths = {}
    for name in (*ours, "thesis.tex", "checkpoint/thesis.tex"):
        folder, base = os.path.split(name)
        for pid in (dead, os.getppid()):
            paths[name, pid] = workdir / folder / f".partial-{pid}-{base}"
            put(paths[name, pid])
    claim_workdir(OLD, str(workdir))
    gone = {key for key, path in paths.items() if not path.exists()}
    assert gone == {(name, dead) for name in ours}
    with pytest.raises(FileExistsError, match=r"with .*thesis.tex, .*thesis.tex"):
        claim_workdir(NEW, str(workdir), overwrite=True)
    # A directory that holds nothing but leftovers is a new one.
    put(tmp_path / "new" / f".partial-{dead}-config.json")
    claim_workdir(NEW, str(tmp_path / "new"))
    assert list(tree(tmp_path / "new")) == ["config.json"]


def test_leftovers_beside_results_are_removed(tmp_path, dead):
    for place in (tmp_path, tmp_path / "small"):
        for name in ("a.json", "a.history.csv", "thesis.tex"):
            put(place / f".partial-{dead}-{name}")
    job = runs.Job(
        "a", str(tmp_path / "a.json"), lambda results: {"b": 1}, collected=str(tmp_path / "small" / "a.json")
    )
    runs.run_jobs([job], "here")
    kept = f".partial-{dead}-thesis.tex"
    assert sorted(os.listdir(tmp_path)) == [kept, "a.json", "small"]
    assert os.listdir(tmp_path / "small") == [kept]


# Room on the disk.


def disk(free, total=2**40):
    return lambda path: types.SimpleNamespace(total=total, used=total - free, free=free)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", disk(2**20))
    message = r"Expected \d+\.\d MiB of free disk space in .*run. Received: 1.0 MiB. Make room"
    with pytest.raises(OSError, match=message):
        train.train(TINY, str(tmp_path / "run"), verbose=0)
    assert os.listdir(tmp_path) == []
    workdir = a_run(tmp_path / "old")
    before = tree(tmp_path)
    with pytest.raises(OSError, match="Expected .* MiB of free disk space"):
        train.train(TINY, str(workdir), overwrite=True, verbose=0)
    assert tree(tmp_path) == before
    check_space(str(tmp_path / "a" / "b"), 0)
    monkeypatch.setattr(shutil, "disk_usage", disk(0, total=0))
    check_space(str(tmp_path), 10**9)


def test_a_disk_that_fills_up_leaves_a_checkpoint_to_go_on_from(tmp_path, monkeypatch):
    workdir, written = str(tmp_path / "run"), []

    def usage(path):
        written.append(path)
        # Before training, and before the weights of two epochs.
        return disk(2**40 if len(written) <= 3 else 2**19)(path)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(OSError, match="Expected .* MiB of free disk space in .*checkpoint. Received: 0.5 MiB"):
        train.train(TINY, workdir, verbose=0)
    monkeypatch.undo()
    assert not list(tmp_path.rglob(".*")), "neither lock nor leftovers"
    checkpoint, model = Checkpoint(workdir, TINY, data.load("digits")), train.build(TINY, data.load("digits"))
    checkpoint.restore(model)
    assert checkpoint.state["epochs"] == 2 and int(model.optimizer.iterations) == 4
    check_room(workdir, model)


def test_an_error_of_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*result.json'"), replaced(tmp_path / "result.json"):
        raise OSError(28, "No space left on device")


# Kills.

TRAINER = """
import os, sys
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow")
import numpy as np
from experiments import train
from experiments.checkpoint import Checkpoint
from experiments.config import Config

class Recording(Checkpoint):
    '''Keeps the weights, the optimizer's state and the generators after each epoch, outside of the workdir.'''

    def on_epoch_end(self, epoch, logs=None):
        variables = [np.array(variable) for variable in (*self.model.variables, *self.model.optimizer.variables)]
        np.savez(f"{sys.argv[1]}/{epoch + 1}.npz", *variables)
        super().on_epoch_end(epoch, logs)

train.Checkpoint = Recording
train.make_deterministic()
train.train(Config(**eval(sys.argv[3])), sys.argv[2], verbose=0)
"""


def _trainer(epochs, workdir):
    changed = {name: value for name, value in TINY.as_dict().items() if value != FIELDS[name].default}
    epochs.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", TRAINER, str(epochs), str(workdir), repr(changed)], cwd=ROOT)


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing(tmp_path):
    """A process is stopped at random moments, and its directory is copied: that is what a SIGKILL leaves at this moment.

    From each copy, the model of the last whole epoch comes back bit for bit, and training from one of them ends with the
    model of the run that went on.
    """
    workdir, copies, moments = tmp_path / "run", [], random.Random(time.time_ns())
    process = _trainer(tmp_path / "epochs", workdir)
    checkpoint, taken = workdir / "checkpoint", collections.Counter()
    while process.poll() is None and not (workdir / "result.json").exists() and len(copies) < 14:
        # Two copies between two ends of epochs, so that a slow machine does not spend them all on the first ones.
        finished = len(os.listdir(tmp_path / "epochs"))
        if taken[finished] == 2:
            continue
        there = os.listdir(checkpoint) if checkpoint.exists() else []
        # Every second one while a file is being written; the others at any moment.
        if len(copies) % 2 and not any(name.startswith(".partial-") for name in there):
            continue
        if len(copies) % 2 == 0:
            time.sleep(moments.random() * (0.1 if there else 0.01))
            if not there:
                continue
        process.send_signal(signal.SIGSTOP)
        taken[finished] += 1
        copies.append(tmp_path / f"copy{len(copies)}")
        shutil.copytree(workdir, copies[-1])
        process.send_signal(signal.SIGCONT)
    assert process.wait() == 0 and len(copies) >= 10
    partial = [copy for copy in copies if list(copy.rglob(".partial-*"))]
    model, digits, epochs = train.build(TINY, data.load("digits")), data.load("digits"), []
    begin = model.get_weights()
    for copy in copies:
        model.set_weights(begin)
        claim_workdir(TINY, str(copy), data=digits.description)
        # Its number may be another process's by now; here it is none's.
        assert not list(copy.rglob(".partial-*"))
        saved = Checkpoint(str(copy), TINY, digits)
        saved.restore(model)
        epochs.append(saved.state["epochs"])
        if epochs[-1]:
            with np.load(tmp_path / "epochs" / f"{epochs[-1]}.npz") as expected:
                variables = [*model.variables, *model.optimizer.variables]
                for ours, name in zip(variables, expected.files, strict=True):
                    np.testing.assert_array_equal(np.array(ours), expected[name], err_msg=ours.path)
    assert epochs == sorted(epochs) and len(set(epochs)) >= 4 and partial
    resumed = moments.choice([copy for copy, epoch in zip(copies, epochs) if 0 < epoch < TINY.epochs])
    assert _trainer(tmp_path / "again", resumed).wait() == 0
    assert not list(resumed.rglob(".*")) and len(os.listdir(tmp_path / "again")) < TINY.epochs
    ours, theirs = (_weights(folder / "model.keras") for folder in (resumed, workdir))
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our, their)


def _weights(path):
    import keras

    return [np.array(variable) for variable in keras.models.load_model(path).variables]
