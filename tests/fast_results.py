"""Made-up results of the rows of fast_vgg, as `experiments.fast` collects them. For tests alone."""

from experiments import fast
from experiments.files import write_csv, write_json

# Row: accuracies of the seeds, spikes, time steps.
MADE_UP = {
    "relu": ((0.931, 0.933), None, None),
    "t16": ((0.926, 0.930), 19000.0, 144),
    "t8": ((0.921,), 18000.0, 72),
    "budget": ((0.9195,), 12000.0, 144),
    "cifar100_relu": ((0.71,), None, None),
    "cifar100_t16": ((0.695,), 24000.0, 144),
}
DEVICE = "a made-up device"


def result(row, seed, accuracy, spikes, time_steps):
    config = fast.row_config(row, {"seed": seed, "dtype_policy": "float32"})
    made = {
        "config": config.as_dict(),
        "data": f"{config.dataset}, made up",
        "training_images": 45000,
        "test_images": 10000,
        "multiply_adds": 100_000_000,
        "epochs": config.epochs,
        "kept_epoch": config.epochs,
        "val_accuracy": accuracy,
        "accuracy": accuracy,
        "wall_time": 60.0 * config.epochs,
        "device": DEVICE,
    }
    if spikes is not None:
        neurons = 56714
        made |= {"spikes": spikes + seed, "spikes_per_neuron": spikes / neurons, "neurons": neurons, "membranes": 99338}
        made |= {"time_steps": time_steps, "decision_step": time_steps - 8}
        made |= {"truenorth_energy": 0.1, "spinnaker_energy": 0.1}
    return made


def write(folder, rows=tuple(MADE_UP)):
    """Collected files of some rows in a directory. An epoch takes a minute; the last but one reaches 90 %, the last 92 %."""
    folder.mkdir(exist_ok=True)
    for row in rows:
        accuracies, spikes, time_steps = MADE_UP[row]
        for seed, accuracy in enumerate(accuracies):
            made = result(row, seed, accuracy, spikes, time_steps)
            path = folder / f"{row}.seed{seed}.json"
            write_json(path, made, sealed=True)
            reached = {made["epochs"] - 1: 0.93, made["epochs"] - 2: 0.91}
            history = [
                {
                    "epoch": epoch,
                    "seconds": 60.0,
                    "loss": 1.0,
                    "accuracy": 0.9,
                    "val_accuracy": reached.get(epoch, 0.85),
                }
                for epoch in range(made["epochs"])
            ]
            write_csv(path.with_name(f"{row}.seed{seed}.history.csv"), history)
    return folder


def write_published(folder):
    """What `experiments.publish` writes, as far as tables read it."""
    folder.mkdir(exist_ok=True)
    published = {"weights": "fast_vgg_cifar10.npz", "data": "cifar10, made up", "accuracy": 0.9261, "spikes": 19001.4}
    published |= {"spikes_per_neuron": 0.335, "neurons": 56714, "membranes": 99338, "time_steps": 144}
    published |= {"decision_step": 136, "equivalence": {"mismatches": 0, "samples": 200}}
    write_json(folder / "published_cifar10.json", published)
    return folder
