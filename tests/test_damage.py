"""A damaged file of a run or of a result is found before anything is trained, in an error that names it and the remedy."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import keras
import pytest

from experiments import runs, saved_model, simulate, stored, train
from experiments.checkpoint import Checkpoint
from experiments.config import Config
from experiments.data import load
from experiments.files import read_csv, read_json, write_csv, write_json
from experiments.lock import LOCK
from experiments.workdir import check_workdir

# Two real runs stand behind the table.
pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"
ALLOWED = (ValueError, FileExistsError, FileNotFoundError)
SETTINGS = {"width": 0.05, "train_images": 64, "batch_size": 32, "dropout": 0.5, "epochs": 300}
CONFIG = Config(**SETTINGS)
FINISHED = Config(**{**SETTINGS, "epochs": 2})


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory):
    """The directory of a run that was killed after an epoch that was not its best."""
    workdir = tmp_path_factory.mktemp("damage") / "run"
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    command = [sys.executable, "-m", "experiments.cifar", f"--workdir={workdir}", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = workdir / "checkpoint" / "state.json"
    while not (state.exists() and read_json(state)["kept"] != read_json(state)["last"]) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The lock of a dead process is taken over, and is gone after that.
    (workdir / LOCK).unlink()
    found = read_json(state)
    assert found["kept"] != found["last"] and not (workdir / "result.json").exists()
    assert check_workdir(CONFIG, str(workdir)) is False
    return workdir


def weights_of(workdir, which):
    """Path, from the workdir, of the weights that state.json names."""
    return f"checkpoint/{read_json(workdir / 'checkpoint' / 'state.json')[which]}"


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("damage") / "finished"
    train.train(FINISHED, str(workdir), verbose=0)
    return workdir


def tree(folder):
    """`{path: content}` of everything in a directory; links are not followed."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


def flipped(path, share=0.5, bit=1):
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= bit
    path.write_bytes(content)


def flipped_digit(path):
    """The last digit of the file becomes another one: still a number, still JSON or CSV."""
    content = bytearray(path.read_bytes())
    place = max(place for place, byte in enumerate(content) if chr(byte).isdigit())
    content[place] = ord("7") if content[place] != ord("7") else ord("3")
    path.write_bytes(content)


def directory_instead(path):
    path.unlink()
    path.mkdir()


# Of any text file.
TEXT = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "without its end": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "prose": lambda path: path.write_text("years of work"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00" + path.read_bytes()),
    "high bit": lambda path: flipped(path, 0.3, 128),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "directory": directory_instead,
}
# Of any JSON file.
JSON = TEXT | {
    "list": lambda path: path.write_text("[1, 2]\n"),
    "null": lambda path: path.write_text("null\n"),
    "number": lambda path: path.write_text("5\n"),
    "text": lambda path: path.write_text('"text"\n'),
    "no keys": lambda path: path.write_text("{}\n"),
    "nested": lambda path: path.write_text("[" * 100_000),
    "two values": lambda path: path.write_text(path.read_text() * 2),
}
WEIGHTS = {
    "truncated": TEXT["truncated"],
    "empty": TEXT["empty"],
    "zeros": TEXT["zeros"],
    "prose": TEXT["prose"],
    "flipped": flipped,
    "flipped at its end": lambda path: flipped(path, 1.0),
    "a byte more": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "missing": lambda path: path.unlink(),
    "directory": directory_instead,
    "another network": lambda path: other_network().save_weights(path),
    "link": lambda path: (path.rename(path.with_name("moved")), path.symlink_to("moved")),
}


def other_network():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def edited(change):
    """A damage that changes a sealed JSON value, and seals it again."""

    def damage(path):
        value = read_json(path)
        changed = change(value)
        write_json(path, value if changed is None else changed, sealed=True)

    return damage


def setting(key, value):
    return edited(lambda found: found.__setitem__(key, value))


def without(key):
    return edited(lambda found: found.pop(key) and None)


NAN = float("nan")
STATE = (
    JSON
    | {f"without {key}": without(key) for key in stored.STATE}
    | {
        "flipped digit": flipped_digit,
        "epochs beyond config.epochs": setting("epochs", 301),
        "negative epochs": setting("epochs", -1),
        "epochs as text": setting("epochs", "2"),
        "epochs as true": setting("epochs", True),
        "epochs as 2.0": setting("epochs", 2.0),
        "fewer epochs": setting("epochs", 1),
        "no seconds": setting("seconds", NAN),
        "infinite seconds": setting("seconds", float("inf")),
        "last elsewhere": setting("last", "../../thesis.weights.h5"),
        "last as number": setting("last", 2),
        "no last": setting("last", None),
        "last of an epoch to come": setting("last", "epoch-00299.weights.h5"),
        "kept of an epoch to come": setting("kept", "epoch-00299.weights.h5"),
        "kept elsewhere": setting("kept", "/etc/passwd"),
        "generators as numbers": setting("generators", [1, 2]),
        "generators as texts": setting("generators", [["a", "b"]]),
        "negative generators": setting("generators", [[-1, 2]]),
        "history as object": setting("history", {}),
        "history of numbers": setting("history", [1, 2]),
        "shorter history": edited(lambda found: found["history"].pop() and None),
        "swapped history": edited(lambda found: found["history"].reverse()),
        "loss is NaN": edited(lambda found: found["history"][0].update(loss=NAN)),
        "loss is missing": edited(lambda found: found["history"][0].pop("loss") and None),
        "accuracy of 2": edited(lambda found: found["history"][1].update(val_accuracy=2.0)),
        "kernels of epochs to come": edited(lambda found: found["kernels"][0].update(epoch=299)),
        "kernels without layers": edited(lambda found: found["kernels"][0].pop("layer") and None),
        "provenance as text": setting("provenance", "here"),
        "data as number": setting("data", 3),
        "an unknown field": setting("thesis", "years of work"),
        "another config": edited(lambda found: found["config"].update(seed=5)),
        "digests as list": setting("weights_sha256", []),
        "digests of others": setting("weights_sha256", {}),
    }
)


def config_with(**changes):
    return lambda path: write_json(path, {**read_json(path), **changes})


CONFIG_FILE = JSON | {
    "flipped digit": flipped_digit,
    "without a field": lambda path: write_json(path, {k: v for k, v in read_json(path).items() if k != "seed"}),
    "a field more": config_with(thesis="years of work"),
    "seed as text": config_with(seed="0"),
    "seed as true": config_with(seed=True),
    "width is NaN": config_with(width=NAN),
    "no epochs": config_with(epochs=0),
    "no such model": config_with(model="resnet"),
}
OF_INTERRUPTED = {
    "config.json": CONFIG_FILE,
    "checkpoint/state.json": STATE | {"missing": lambda path: path.unlink()},
    "kept": WEIGHTS,
    "last": WEIGHTS,
}
OF_FINISHED = {
    "config.json": JSON,
    "result.json": JSON
    | {f"without {key}": without(key) for key in stored.RESULT}
    | {
        "flipped digit": flipped_digit,
        "accuracy is NaN": setting("accuracy", NAN),
        "accuracy of 93": setting("accuracy", 93),
        "epochs beyond config.epochs": setting("epochs", 3),
        "kept_epoch to come": setting("kept_epoch", 3),
        "spikes as text": setting("spikes", "many"),
        "config as list": setting("config", []),
        "config of another run": edited(lambda found: found["config"].update(seed=5)),
        "config of something else": setting("config", {"thesis": 1}),
    },
    "history.csv": TEXT
    | {
        "flipped digit": flipped_digit,
        "missing": lambda path: path.unlink(),
        "a line less": lambda path: write_csv(path, read_csv(path)[:-1]),
        "a value more": lambda path: path.write_text(path.read_text() + "1," * 40 + "\n"),
        "no numbers": lambda path: path.write_text(path.read_text().replace("0.", "zero")),
    },
    "kernels.csv": TEXT | {"flipped digit": flipped_digit, "missing": lambda path: path.unlink()},
    "distributions.json": JSON | {"flipped digit": flipped_digit, "missing": lambda path: path.unlink()},
}


def cases(table):
    return [pytest.param(file, kind, id=f"{file}-{kind}") for file, kinds in table.items() for kind in kinds]


def test_there_are_many_damages():
    assert len(cases(OF_INTERRUPTED)) + len(cases(OF_FINISHED)) > 150


def refused(config, workdir, file, monkeypatch):
    """Trains in a damaged directory. The error is of the house's form, and not a byte there is changed."""
    monkeypatch.setattr(keras.Model, "fit", lambda *arguments, **keywords: pytest.fail("trained"))
    before = tree(workdir)
    with pytest.raises(ALLOWED) as caught:
        train.train(config, str(workdir), verbose=0)
    message = str(caught.value)
    assert type(caught.value) in ALLOWED, "no subclass, as JSONDecodeError and UnicodeDecodeError are"
    assert os.path.basename(file) in message and "Expected " in message and "Received: " in message, message
    assert "\n" not in message and len(message) < 1500
    assert any(word in message for word in ("emove", "estore", "hoose another")), message
    assert tree(workdir) == before
    return message


@pytest.mark.parametrize(("file", "kind"), cases(OF_INTERRUPTED))
def test_a_damaged_interrupted_run_is_refused(interrupted, tmp_path, monkeypatch, file, kind):
    workdir = tmp_path / "run"
    shutil.copytree(interrupted, workdir)
    damage = OF_INTERRUPTED[file][kind]
    if file in ("kept", "last"):
        file = weights_of(workdir, file)
    damage(workdir / file)
    refused(CONFIG, workdir, file, monkeypatch)
    if not (file == "config.json" or kind in ("directory", "link")):
        assert check_workdir(CONFIG, str(workdir), overwrite=True), "the remedy"


@pytest.mark.parametrize(("file", "kind"), cases(OF_FINISHED))
def test_a_damaged_finished_run_is_refused(finished, tmp_path, monkeypatch, file, kind):
    workdir = tmp_path / "table" / "run"
    shutil.copytree(finished, workdir)
    OF_FINISHED[file][kind](workdir / file)
    refused(FINISHED, workdir, file, monkeypatch)
    # As a run of a table, before the others are trained.
    monkeypatch.setattr(runs, "in_new_process", lambda *arguments: pytest.fail("trained"))
    before = tree(workdir)
    with pytest.raises(ALLOWED, match=os.path.basename(file)):
        runs.train_all({"other": CONFIG, "run": FINISHED}, str(workdir.parent))
    assert tree(workdir) == before
    if file != "config.json" and kind != "directory":
        assert check_workdir(FINISHED, str(workdir), overwrite=True)


@pytest.mark.parametrize("file", ["history.csv", "kernels.csv", "distributions.json", "result.json"])
@pytest.mark.parametrize("kind", ["truncated", "empty", "prose", "no text", "flipped digit", "directory"])
def test_a_damaged_collected_file_is_refused(finished, tmp_path, monkeypatch, file, kind):
    collected = tmp_path / "small" / "row.seed0.json"
    runs.copy_files(str(finished), str(collected), runs.SMALL_FILES)
    path = collected.with_name(f"row.seed0.{runs.SMALL_FILES[file]}")
    (OF_FINISHED[file])[kind](path)
    monkeypatch.setattr(runs, "in_new_process", lambda *arguments: pytest.fail("trained"))
    before = tree(tmp_path)
    with pytest.raises(ALLOWED, match=f"Expected .*{path.name}.* Received: "):
        runs.train_all({"row/seed0": FINISHED, "b": CONFIG}, str(tmp_path / "new"), collect=str(collected.parent))
    assert tree(tmp_path) == before


def test_a_checkpoint_of_an_earlier_version_goes_on_and_its_damage_is_found(interrupted, tmp_path, monkeypatch):
    """Without digests, and without a seal."""
    workdir = tmp_path / "run"
    shutil.copytree(interrupted, workdir)
    state = workdir / "checkpoint" / "state.json"
    old = {name: value for name, value in read_json(state).items() if name in (*stored.STATE, "data")}
    state.write_text(json.dumps(old))
    model = train.build(CONFIG, load("digits"))
    checkpoint = Checkpoint(str(workdir), CONFIG, load("digits"))
    checkpoint.restore(model)
    assert checkpoint.state["weights_sha256"] == read_json(interrupted / "checkpoint" / "state.json")["weights_sha256"]
    for name in (old["kept"], old["last"]):
        for kind in ("truncated", "empty", "prose", "missing", "another network", "directory"):
            shutil.rmtree(workdir)
            shutil.copytree(interrupted, workdir)
            state.write_text(json.dumps(old))
            WEIGHTS[kind](workdir / "checkpoint" / name)
            # Which of two networks is the other one, their files do not tell.
            refused(CONFIG, workdir, "weights.h5" if kind == "another network" else name, monkeypatch)


def test_weights_of_another_network_are_named(interrupted, tmp_path):
    """Both files, and their digests, are those of another network: Keras finds it, and we say where."""
    workdir = tmp_path / "run"
    shutil.copytree(interrupted, workdir)
    checkpoint = Checkpoint(str(workdir), CONFIG, load("digits"))
    with pytest.raises(ValueError, match=r"Expected .*weights.h5 to hold the weights of this network"):
        checkpoint.restore(other_network())
    few = train.build(Config(**{**SETTINGS, "dropout": 0.0}), load("digits"))
    with pytest.raises(ValueError, match=r"Expected .*(state.json|weights.h5) to hold "):
        checkpoint.restore(few)


# Of each kind of result file: a sound one, and who reads it.
SAMPLES = {
    "result.json": ("digits/digits.json", stored.read_result),
    "failure.json": ("table1_converged_not_frozen/sm_sr.seed0.failure.json", stored.read_failure),
    "history.csv": ("digits/digits.history.csv", stored.read_history),
    "kernels.csv": ("table1_small/sm_sr.seed0.kernels.csv", stored.read_kernels),
    "distributions.json": ("table1_small/sm_sr.seed0.distributions.json", stored.read_distributions),
    "simulation.json": (
        "digits/digits.simulation.json",
        lambda path: simulate.check_output(os.path.dirname(path), overwrite=True),
    ),
    "conversion.json": (
        "spiking_small/relu.seed1.conversion_ceil.json",
        lambda path: stored.read_any(path, stored.CONVERSION),
    ),
    "rate.json": ("table2_cifar10/rate.json", lambda path: stored.read_any(path, stored.CODING)),
    "training_float32_1.json": ("benchmark/training_float32_1.json", stored.read_benchmark),
    "sweep.json": ("benchmark/sweep.json", stored.read_benchmark),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_results_are_told_by_their_readers(tmp_path, name):
    source, read = SAMPLES[name]
    path = tmp_path / "results" / name
    path.parent.mkdir()
    shutil.copyfile(RESULTS / source, path)
    read(str(path))
    kinds = JSON if name.endswith("json") else TEXT
    for kind, damage in kinds.items():
        if path.is_dir():
            path.rmdir()
        shutil.copyfile(RESULTS / source, path)
        damage(path)
        with pytest.raises(ALLOWED, match=f"Expected .*{'' if kind == 'directory' else name}.* Received: ") as caught:
            read(str(path))
        assert type(caught.value) in ALLOWED, kind


def test_committed_results_are_sound():
    readers = {".history.csv": stored.read_history, ".kernels.csv": stored.read_kernels}
    readers |= {".distributions.json": stored.read_distributions, ".failure.json": stored.read_failure}
    count = 0
    for path in sorted(RESULTS.rglob("*.csv")) + sorted(RESULTS.rglob("*.json")):
        reader = next((reader for suffix, reader in readers.items() if path.name.endswith(suffix)), None)
        if reader is None and path.parent.name == "benchmark":
            reader = stored.read_benchmark
        elif reader is None and path.parent.name.startswith("table2"):
            reader = SAMPLES["rate.json"][1]
        elif reader is None and "config" in read_json(path):
            reader = stored.read_result
        if reader:
            reader(path)
            count += 1
    assert count > 150


def test_a_seal_is_transparent_and_finds_every_changed_byte(tmp_path):
    path = tmp_path / "sealed.json"
    value = {"b": [1, 2.5, NAN], "a": {"text": "ä"}, "n": None}
    write_json(path, value, sealed=True)
    assert str(read_json(path)) == str(value) and "sha256" in path.read_text()
    content = path.read_bytes()
    found = 0
    for place in range(len(content) - 1):
        for bit in (1, 2, 128):
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            try:
                same = str(read_json(path)) == str(value)
            except ValueError:
                found += 1
                continue
            # Another space; or the seal's own name, and then a field stands there that nobody knows.
            assert same or any(len(str(field)) == 64 for field in read_json(path).values()), place
    assert found > 2 * len(content)


@pytest.mark.parametrize("kind", ["truncated", "empty", "prose", "flipped", "another archive", "another network"])
def test_damaged_models_are_told_in_one_line(finished, tmp_path, kind):
    path = tmp_path / "model.keras"
    shutil.copyfile(finished / "model.keras", path)
    assert saved_model.load(str(path)).name == "vgg6"
    if kind == "another archive":
        path.unlink()
        shutil.make_archive(str(tmp_path / "archive"), "zip", RESULTS / "digits")
        (tmp_path / "archive.zip").rename(path)
    elif kind == "another network":
        path.write_bytes(path.read_bytes().replace(b"TTFSActivation", b"SSFTActivation"))
    else:
        WEIGHTS[kind](path)
    with pytest.raises(ValueError, match=r"Expected .*model.keras to hold a model.* Received: ") as caught:
        saved_model.load(str(path))
    assert type(caught.value) is ValueError and "\n" not in str(caught.value)
