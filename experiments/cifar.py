"""Trains and evaluates one network: `python -m experiments.cifar --flagfile=experiments/flagfiles/digits.flags`."""

import dataclasses
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from absl import app, flags

from experiments.config import CHOICES, Config

HELP = {
    "dataset": "Data set; cifar10 and cifar100 through tensorflow-datasets.",
    "row": "Name of the run in tables.",
    "model": "Network.",
    "width": "Factor on every hidden channel count [1].",
    "activation": "ttfs; relu for the ReLU twin; spike_time for direct training without kernels (Zhou et al.).",
    "input_coding": "ttfs encodes intensities as spikes, analog injects them.",
    "time_window": "T, steps of one phase [steps].",
    "tau_0": "Initial time constant of every temporal kernel [steps].",
    "z_max_0": "Initial largest level [1]; t_d_0 = tau_0 * ln(z_max_0).",
    "rounding": "Q of Eq. 4: how a spike time is rounded.",
    "kernel_gradient": "Gradient of tau and t_d: the decoder's (Eq. 6), or through encoder and decoder.",
    "lambda_tr": "Weight of the temporal-kernel regularisation REG_TR [1/steps^2].",
    "lambda_tb": "Weight of the pruning probability P_TB [1].",
    "relaxation": "Stochastic relaxation until target_epoch.",
    "target_epoch": "e_tar of the stochastic relaxation [epochs]; 0: no relaxation.",
    "gamma_0": "Initial scale of batch normalisation [1].",
    "bn_momentum": "Momentum of the moving statistics of batch normalisation [1].",
    "dropout": "Factor on the authors' dropout rates [1]; 0: none.",
    "l2": "Factor of the squared norm of the weights [1].",
    "label_smoothing": "Label smoothing [1].",
    "optimizer": "sgd has Nesterov momentum.",
    "momentum": "Momentum of sgd [1].",
    "learning_rate": "Learning rate, the peak of a schedule [1].",
    "schedule": "Learning rate over the run; triangular and cosine rise first, then fall to 0.",
    "warmup": "Share of the run in which the learning rate rises [1].",
    "batch_size": "Images of one step [images].",
    "epochs": "Passes over the training images [epochs].",
    "keep": "Which epoch's weights are tested and saved: best validation accuracy, or the last.",
    "augment": "Zero-pad and crop at random; flip too on CIFAR.",
    "train_images": "Use only the first so many training images [images]; 0: all.",
    "seed": "Seed of weights, order, augmentation, dropout and relaxation.",
    "dtype_policy": "Keras dtype policy.",
    "jit_compile": "Compile the whole step with XLA (slow convolutions on CPUs).",
}
DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_boolean}


def define_config_flags(values=flags.FLAGS):
    """One flag for each field of Config, in the absl FlagValues `values`."""
    for field in dataclasses.fields(Config):
        name, default = field.name, field.default
        if name in CHOICES:
            flags.DEFINE_enum(name, default, CHOICES[name], HELP[name], flag_values=values)
        else:
            DEFINE[type(default)](name, default, HELP[name], flag_values=values)


def config_from_flags(values=flags.FLAGS):
    return Config(**{field.name: values[field.name].value for field in dataclasses.fields(Config)})


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    try:
        config = config_from_flags()
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    from experiments import report, train

    options = flags.FLAGS
    try:
        result = train.train(
            config,
            options.workdir,
            data_dir=options.data_dir,
            download=options.download,
            overwrite=options.overwrite,
            tensorboard=options.tensorboard,
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except (OSError, FloatingPointError, ImportError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(f"\n{report.table([result])}\n\nFiles: {os.path.abspath(options.workdir)}")
    if config.activation == "ttfs":
        place = f" --data_dir={options.data_dir}" if options.data_dir else ""
        model = os.path.join(options.workdir, "model.keras")
        print(f"Its spikes: python -m experiments.simulate --model={model} --dataset={config.dataset}{place}")


if __name__ == "__main__":
    define_config_flags()
    flags.DEFINE_string("workdir", None, "Directory of the run: results, plots, model; resumes what it holds.")
    flags.DEFINE_string("data_dir", None, "Directory of tensorflow-datasets; its own default if not given.")
    flags.DEFINE_boolean("download", False, "Download and prepare the data set if it is not there.")
    flags.DEFINE_boolean(
        "overwrite",
        False,
        "Replace a finished or another run that workdir holds. An interrupted one of this config goes on.",
    )
    flags.DEFINE_boolean("tensorboard", False, "Write TensorBoard logs to workdir/tensorboard.")
    flags.mark_flag_as_required("workdir")
    app.run(main)
