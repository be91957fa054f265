import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "keras_ttfs" / "__init__.py").read_text()).group(1)

# importlib_resources: tensorflow-datasets 4.9.10 needs it to prepare a data set, and does not say so.
EXPERIMENTS = [
    "absl-py>=2.1",
    "tensorflow-datasets>=4.9.10",
    "importlib_resources>=6.4",
    "scikit-learn>=1.5",
    "matplotlib>=3.9",
]
TEST = [
    "pytest>=8.2",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff>=0.6",
    "mypy>=1.15",
    "nbclient>=0.10",
    "ipykernel>=6.29",
]
# Ranges are those of the versions that tests/test_exporting.py has passed on. Another one may break what is named here.
EXPORT = [
    "tf2onnx>=1.17,<1.18",  # Writes ONNX, as Keras' own export does; our QONNX edits the names that it gives to nodes.
    "onnx>=1.23,<1.24",  # Reads ONNX; its newest opset is what onnxruntime must know.
    "onnxruntime>=1.32,<1.33",  # Runs ONNX; an older one refuses files of a newer onnx.
    "ai-edge-litert>=2.3,<2.4",  # Runs LiteRT; its list of operations is a private method.
    "qonnx>=1.0,<1.1",  # Runs QONNX; the order of FloatQuant's inputs is not promised.
    "nir>=1.0.8,<1.1",  # Holds spike trains; EventData came with 1.0.8.
]
NOTEBOOKS = ["jupyter>=1.0", "matplotlib>=3.9", "scikit-learn>=1.5"]
TENSORBOARD = ["tensorboard>=2.20"]
DEVELOPMENT = ["pre-commit>=4.0"]

setup(
    name="keras-ttfs",
    version=VERSION,
    description="Deep spiking neural networks with time-to-first-spike coding, as Keras 3 layers",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    # Not experiments: a name that every second project has. Its commands run from the clone.
    packages=find_packages(include=["keras_ttfs", "keras_ttfs.*"]),
    package_data={"keras_ttfs": ["py.typed", "weights/*.npz"]},
    python_requires=">=3.11",
    # Ceilings because of keras_ttfs/keras_internals.py: raise them once its tests pass on the new release.
    install_requires=["tensorflow>=2.21,<2.23", "keras>=3.15,<3.17", "numpy>=2.0"],
    extras_require={
        "experiments": EXPERIMENTS + TENSORBOARD,
        "export": EXPORT,
        "test": TEST + EXPERIMENTS + EXPORT + TENSORBOARD,
        "notebooks": NOTEBOOKS + TENSORBOARD,
        "all": EXPERIMENTS + TENSORBOARD + TEST + NOTEBOOKS + EXPORT + DEVELOPMENT,
    },
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
