"""Trains and evaluates one network: `python -m experiments.cifar --flagfile=experiments/flagfiles/digits.flags`."""

import os
import sys

from absl import flags

from experiments import command


def define_flags() -> None:
    command.define_config_flags()
    command.define_shared_flags("workdir", "data_dir", "download", "overwrite")
    flags.DEFINE_boolean("tensorboard", False, "Write TensorBoard logs to workdir/tensorboard.")


def main(options: flags.FlagValues) -> None:
    with command.usage_errors():
        config = command.config_from_flags()
    from experiments import chain, tables, train

    place = {"data_dir": options.data_dir, "download": options.download, "overwrite": options.overwrite}
    models = chain.train_first(config, options.workdir, **place)
    train.make_deterministic()
    result = train.train(
        config,
        options.workdir,
        **place,
        models=models,
        tensorboard=options.tensorboard,
        verbose=1 if sys.stdout.isatty() else 2,
    )
    if result is None:
        print("Worker 0 writes the result.")
        return
    print(f"\n{tables.results_table([result])}\n\nFiles: {os.path.abspath(options.workdir)}")
    # What has time steps has a spiking network.
    if "time_steps" in result:
        place = f" --data_dir={options.data_dir}" if options.data_dir else ""
        model = os.path.join(options.workdir, "model.keras")
        print(f"Its spikes: python -m experiments.simulate --model={model} --dataset={config.dataset}{place}")


if __name__ == "__main__":
    define_flags()
    command.run(main)
