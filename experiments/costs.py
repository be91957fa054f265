"""How each table and figure was made, and what it cost: a line for each folder of results."""

from typing import NamedTuple

from experiments.results import RESULTS, Result, read_group
from experiments.tables import markdown


class Made(NamedTuple):
    """How a folder of results was made.

    Attributes:
        shows: what is made of it.
        command: the module that made it, and what it was told beside its own settings.
    """

    shows: str
    command: str


MADE = {
    "fast_cifar": Made("rows of fast_vgg, README's table, `frontier.png`", "`fast`, `frontier`, `publish`"),
    "fast_half": Made("ways to start", "`fast --width=0.5`"),
    "fast_search": Made("what fast_vgg was chosen from", "code of its time, no command of today"),
    "fast_recipe": Made("its recipe, one part at a time", "`sweeps --width=0.5 --epochs=4`"),
    "fast_spikes": Made("what saves spikes, `saved_spikes.png`", "`sweeps --width=0.5 --epochs=3`"),
    "digits": Made("the row of digits", "`cifar --flagfile=.../digits.flags`, `simulate`"),
    "table1_small": Made(
        "Table 1 at reduced scale, Figs. 2, 5, 7 and 11 to 17", "`table1 --flagfile=.../small.flags`, `figures`"
    ),
    "table1_small_frozen": Made(
        "one of its rows with frozen kernels", "`table1 --flagfile=.../small.flags --frozen_epochs=4`"
    ),
    "table1_small_gamma1": Made(
        "three of its rows with norms that start at 1", "`table1 --flagfile=.../small.flags --gamma_0=1`"
    ),
    "recipe_converged": Made(
        "what `converged.flags` was chosen from",
        "`cifar --flagfile=.../converged.flags --epochs=12 --target_epoch=4 --frozen_epochs=0`",
    ),
    "table1_converged": Made(
        "Table 1 at convergence, Figs. 2, 5 and 11 to 17", "`table1 --flagfile=.../converged.flags`, `figures`"
    ),
    "table1_converged_target6": Made(
        "one of its rows with a shorter relaxation",
        "`table1 --flagfile=.../converged.flags --target_epoch=6 --frozen_epochs=6`",
    ),
    "table1_converged_not_frozen": Made(
        "its rows with kernels trained from the first epoch, Figs. 5 and 15",
        "`table1 --flagfile=.../converged.flags --frozen_epochs=0`, `figures`",
    ),
    "table1_converged_lambda_tr": Made(
        "the same with a larger lambda_TR", "`table1 --flagfile=.../converged.flags --frozen_epochs=0 --lambda_tr=1e-3`"
    ),
    "sweeps_small": Made(
        "Figs. 3 and 8",
        "`sweeps --flagfile=.../converged.flags --epochs=4 --target_epoch=2 --frozen_epochs=0`, `figures`",
    ),
    "spiking_small": Made("spiking networks of Table 1, README's raster", "`simulate`, `convert`"),
    "table2_cifar10": Made("Table 2, CIFAR-10, `codings.png`", "`table2`, `zhou`"),
    "table2_cifar100": Made("Table 2, CIFAR-100, `codings.png`", "`table2 --dataset=cifar100`"),
    "export": Made("other runtimes", "`export`"),
    "robustness": Made("imperfect hardware, `robustness.png`", "`robustness`"),
    "anytime": Made("answers before the end, `anytime.png`", "`anytime`"),
    "scaling": Made("several workers, what ImageNet costs", "`scaling`"),
    "benchmark": Made("speed of training and simulation, `training.png`, `sweep.png`", "`benchmark`"),
}
COLUMNS = ("results", "what they show", "made by `python -m experiments.` ...", "files", "hours", "device")


def _hours(results: list[Result]) -> str:
    """What the results took together, "-" where they do not tell."""
    seconds = sum(result.get("wall_time", result.get("seconds", 0.0)) for result in results if _tells(result))
    return f"{seconds / 3600:.2f}" if seconds else "-"


def _tells(result: Result) -> bool:
    return isinstance(result.get("wall_time", result.get("seconds")), float | int)


def cost_table() -> str:
    """The folders of committed results, in the order of MADE."""
    lines = [list(COLUMNS)]
    for group, made in MADE.items():
        paths = [path for path in (RESULTS / group).glob("*.json") if not path.name.endswith(".distributions.json")]
        if not paths:
            continue
        results = [result for result in read_group(group) if isinstance(result, dict)]
        devices = sorted({result["device"] for result in results if isinstance(result.get("device"), str)})
        link = f"[{group}](results/{group})"
        lines.append([link, *made, str(len(paths)), _hours(results), ", ".join(devices) or "-"])
    return (
        "**How each table and figure was made**: the sections of this page have the whole commands. Fig. 10 and README's "
        "picture of the activation are computed, by `figures` and by `report`. Hours are those of the training runs and "
        'simulations themselves, pauses and other work beside them included; "-": minutes, or not kept.\n\n'
        f"{markdown(lines)}"
    )
