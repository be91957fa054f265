"""Every notebook runs from top to bottom, and is committed with its outputs."""

import os
import pathlib
import subprocess
import sys

import nbclient
import nbformat
import numpy as np
import pytest

from experiments import data as data_module

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


# Epochs of the longest ones, here: they are committed as they ran whole, and this asks whether they still run.
SHORTER = {
    "02_train_a_spiking_network": {"epochs=15": "epochs=3", "range(4)": "range(1)", "range(2)": "range(1)"},
    "04_fewer_spikes": {
        "(paper, 15)": "(paper, 4)",
        "(relu, 15)": "(relu, 4)",
        "(taught(model), 5,": "(taught(model), 1,",
        "(taught(start), 15,": "(taught(start), 4,",
    },
    "07_export": {"epochs=15": "epochs=5"},
    "08_imperfect_hardware": {"epochs=15": "epochs=5", "epochs=20": "epochs=2"},
}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07", "08", "09"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_as_it_ran(path):
    cells = code_cells(nbformat.read(path, 4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert {"stream", "display_data"} <= kinds and "error" not in kinds


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A directory with the original CIFAR-10, as tensorflow-datasets prepares it."""
    program = ROOT.parent / "shared" / "data" / "prepare_cifar.py"
    if not program.exists():
        pytest.skip("needs the images of CIFAR-10 beside the project")
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, str(program), "cifar10", str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_the_images_that_notebooks_train_on(cifar):
    data = data_module.load("cifar10", str(cifar))
    assert (data.train.images.shape, data.validation.images.shape) == ((45000, 32, 32, 3), (5000, 32, 32, 3))
    assert (data.classes, data.description, len(data.test())) == (10, "cifar10/3.0.2", 10000)
    means = data.train.images.mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, request, monkeypatch):
    if "CIFAR_DIR" in path.read_text() and "CIFAR_DIR" not in os.environ:
        monkeypatch.setenv("CIFAR_DIR", str(request.getfixturevalue("cifar")))
    notebook = nbformat.read(path, 4)
    for whole, short in SHORTER.get(path.stem, {}).items():
        cells = [cell for cell in code_cells(notebook) if whole in cell.source]
        assert cells, whole
        for cell in cells:
            cell.source = cell.source.replace(whole, short)
    place = {"metadata": {"path": str(path.parent)}}
    # Of a cell [s]; the whole notebook is meant for two minutes.
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=place).execute()
