"""Jobs one after the other: what is finished is not done again. A command may be killed at any moment and started again.

`run_jobs` is the engine of every command that makes result files. `train_all` makes jobs of training runs.
"""

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

from experiments import workers
from experiments.config import Config, differences
from experiments.files import OBJECT, check_fields, replaced, what_is, write_json
from experiments.lock import check_folder, locked
from experiments.processes import in_new_process
from experiments.stored import (
    FAILURE_FILE,
    HISTORY_FILES,
    SMALL_READERS,
    check_run,
    check_small_files,
    read_any,
    read_config,
    read_failure,
)
from experiments.workdir import check_workdir, pattern_of, remove_leftovers

# Of a finished run, what is small enough to be committed. The result comes last: with it the others are there.
SMALL_FILES = {name: name for name in SMALL_READERS} | {"result.json": "json"}
# Of a run whose loss was not finite.
FAILED_FILES = {name: name for name in (*HISTORY_FILES, FAILURE_FILE)}
RESTORE = "Restore it, or remove the files of this run there."
Results = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Job:
    """A result that is made once.

    Attributes:
        name: of the result among those of its command.
        file: JSON file that is there when the job is finished.
        make: function of the results so far, `{name: result}`. It returns the result; or None, where it has written `file`.
        settings: what a finished result must hold for this job to count as finished. None: nothing tells, so that a
            file that is there is refused.
        settings_key: where a result holds its settings.
        claim: JSON file that holds the settings of an interrupted job.
        check: function that raises where the job's directory holds something else, or damaged files.
        read: reader of a result, which raises ValueError where the file is damaged or holds something else. A file that it
            does not know is not replaced, with `overwrite` neither.
        collected: second place of the result. A result that is there is finished too, and stays as it is.
        overwrite: whether to do the job again where `file` is there.
        failures: exceptions of `make` that do not stop the other jobs.
        title: of the job in the progress; its name if empty.
    """

    name: str
    file: str
    make: Callable[[Results], Any]
    settings: dict[str, Any] | None = None
    settings_key: str = "settings"
    read: Callable[[str], Results] = read_any
    claim: str | None = None
    check: Callable[[], None] = lambda: None
    collected: str | None = None
    overwrite: bool = False
    failures: tuple[type[Exception], ...] = ()
    title: str = ""


def run_jobs(
    jobs: list[Job], places: str, check: Callable[[Results], Any] = lambda results: None
) -> tuple[Results, dict[str, str]]:
    """Does the jobs that are not finished.

    Raises FileExistsError, before anything runs, where a file holds something else than its job asks for, and ValueError
    where it is damaged. Temporary files that killed processes left beside the results are removed.

    Args:
        jobs: list of Job.
        places: where the results are, in words.
        check: is called with the results so far, at the beginning and after each job, and may raise.

    Returns:
        `(results, failures)`: `{name: result}` of the finished jobs in the order of `jobs`, `{name: message}` of those that
        failed.
    """
    _check_places(jobs)
    _refuse_unknown_files(jobs)
    found = {job.name: _finished(job) for job in jobs}
    results = {name: result for name, result in found.items() if result is not None}
    check(results)
    failures = {}
    print(f"{len(results)} of {len(jobs)} runs are finished in {places}", flush=True)
    for job in _announced([job for job in jobs if job.name not in results]):
        try:
            made = job.make(results)
        except job.failures as error:
            failures[job.name] = f"{type(error).__name__}: {error}"
            print(f"{job.name}: {failures[job.name]}", flush=True)
            continue
        if made is not None:
            os.makedirs(os.path.dirname(os.path.abspath(job.file)), exist_ok=True)
            write_json(job.file, made, sealed=True)
        results[job.name] = _finished(dataclasses.replace(job, overwrite=False))
        check(results)
    return {job.name: results[job.name] for job in jobs if job.name in results}, failures


def _check_places(jobs: list[Job]) -> None:
    """Raises where results cannot be written to their directories, and removes what killed writers left there."""
    for job in jobs:
        for path in filter(None, (job.file, job.collected)):
            folder, name = os.path.split(os.path.abspath(path))
            check_folder(folder, "the directory of results")
            names = [
                name,
                *(f"{name.removesuffix('.json')}.{suffix}" for suffix in {**SMALL_FILES, **FAILED_FILES}.values()),
            ]
            remove_leftovers(folder, pattern_of(names))


def _refuse_unknown_files(jobs: list[Job]) -> None:
    """Raises where a file would be replaced that `overwrite` does not ask for, or that is no result of this kind."""
    there = [job.file for job in jobs if job.settings is None and not job.overwrite and os.path.lexists(job.file)]
    if there:
        raise FileExistsError(f"Expected new result files. Received: {', '.join(there)}. Pass --overwrite.")
    for job in jobs:
        if os.path.islink(job.file) and job.overwrite:
            raise FileExistsError(f"Expected {job.file} to be a file. Received: {what_is(job.file)}. Move it away.")
        if os.path.lexists(job.file) and job.overwrite:
            job.read(job.file)


def _finished(job: Job) -> Any:
    """The result of a job, None where it is not finished. What the second place lacks of it is copied there.

    failure.json of an earlier attempt is removed there once the result is there.
    """
    if job.overwrite:
        return None
    job.check()
    if job.claim and os.path.lexists(job.claim):
        _check_settings(read_any(job.claim), job, job.claim)
    if job.collected and os.path.lexists(ended := _failure_path(job.collected)) and not os.path.lexists(job.collected):
        histories = {name: path for name, path in _collected_files(job.collected).items() if name in HISTORY_FILES}
        _check_settings(check_small_files(ended, histories, RESTORE, read_failure)["config"], job, ended)
    there = [path for path in (job.collected, job.file) if path and os.path.lexists(path)]
    results = [job.read(path) for path in there]
    for path, result in zip(there, results):
        check_fields(path, result, {job.settings_key: OBJECT} if job.settings is not None else {})
        _check_settings(result.get(job.settings_key), job, path)
    if job.collected and there == [job.file]:
        copy_files(os.path.dirname(job.file), job.collected, SMALL_FILES)
    elif job.collected and there:
        _remove_failure(job.collected)
    return results[0] if results else None


def _check_settings(found: dict[str, Any] | None, job: Job, path: str) -> None:
    if job.settings is not None and (changes := differences(found, job.settings)):
        raise FileExistsError(f"Expected {path} to hold what is asked for. Received: {changes}.")


def _announced(jobs: list[Job]) -> Iterator[Job]:
    """Yields the jobs, printing before each its title, its place and about how long the rest takes."""
    begun = time.monotonic()
    for number, job in enumerate(jobs):
        left = (time.monotonic() - begun) / number * (len(jobs) - number) if number else None
        estimate = f", about {left / 60:.0f} minutes left" if left is not None else ""
        print(f"\n[{number + 1}/{len(jobs)}] {job.title or job.name}{estimate}", flush=True)
        yield job


def _collected_files(collected: str) -> dict[str, str]:
    """`{name: path}` of the small files beside a collected result."""
    return {name: f"{collected.removesuffix('.json')}.{name}" for name in SMALL_READERS}


def _failure_path(collected: str) -> str:
    return f"{collected.removesuffix('.json')}.{FAILURE_FILE}"


def _remove_failure(collected: str) -> None:
    """Removes what an earlier attempt told that failed, once it is found to be that."""
    if os.path.lexists(path := _failure_path(collected)):
        read_failure(path, RESTORE)
        os.remove(path)


def copy_files(folder: str, collected: str, files: dict[str, str]) -> None:
    """Copies `{file of a run's directory: suffix}` to the run's second place.

    What is there of the run is replaced, once it is found to be such a file; anything else is refused.
    """
    target = collected.removesuffix(".json")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    for name, path in _collected_files(collected).items():
        if os.path.lexists(path):
            SMALL_READERS[name](path, "Remove it, and the run's own takes its place.")
    _remove_failure(collected)
    for file, suffix in files.items():
        source = os.path.join(folder, file)
        if os.path.exists(source):
            with replaced(f"{target}.{suffix}") as temporary:
                shutil.copyfile(source, temporary)


def train_all(
    configs: dict[str, Config],
    workdir: str,
    *,
    data_dir: str | None = None,
    download: bool = False,
    collect: str | None = None,
    models: dict[str, dict[str, str]] | None = None,
) -> tuple[Results, dict[str, str]]:
    """Trains what is not finished yet of `{name: Config}`, each in `workdir/name`, in a process of its own.

    The small files of a finished run are copied to the directory `collect` at once, where that is given. A run whose files
    are there is finished, whichever machine trained it. One whose loss is not finite leaves its histories and a
    `failure.json` there, and is tried again by the next call. `models` is `{name: {flagfile: model}}` for the runs that begin
    from models, as `experiments.config.with_models` takes it.

    Raises:
        FileExistsError: before anything is trained, where a directory holds a run with another config.
        ValueError: where runs of one data set are of different data, and with several workers (`experiments.workers`).

    Returns:
        As `run_jobs`.
    """
    workers.refuse("runs one after the other")

    def job(name: str, config: Config) -> Job:
        folder = os.path.join(workdir, name)
        file = os.path.join(folder, "result.json")
        found = (models or {}).get(name, {})
        collected = os.path.join(collect, f"{name.replace(os.sep, '.')}.json") if collect else None

        def make(results: Results) -> None:
            expected = _common_data(results).get(config.dataset)
            try:
                in_new_process(_train, config, folder, data_dir, download, expected, found)
            except FloatingPointError:
                # Another machine may have brought the result by now.
                if collected and not os.path.lexists(collected):
                    copy_files(folder, collected, FAILED_FILES)
                raise

        return Job(
            name,
            file,
            make,
            config.as_dict(),
            "config",
            read=lambda path: _read_run(path, collected=path != file),
            claim=os.path.join(folder, "config.json"),
            check=lambda: _check_folder(folder, config),
            collected=collected,
            failures=(FloatingPointError, RuntimeError),
        )

    jobs = [job(name, config) for name, config in configs.items()]
    return run_jobs(jobs, f"{workdir} and {collect}" if collect else workdir, _common_data)


def _read_run(path: str, collected: bool) -> Results:
    """The result of a run; raises ValueError where it, or a small file beside it, is damaged."""
    if collected:
        return check_small_files(path, _collected_files(path), RESTORE)
    return check_small_files(path, {name: os.path.join(os.path.dirname(path), name) for name in SMALL_READERS})


def _check_folder(folder: str, config: Config) -> None:
    """Raises where the directory of a run holds something else, or a damaged file of a run."""
    path = os.path.join(folder, "config.json")
    finished = os.path.lexists(os.path.join(folder, "result.json"))
    if os.path.lexists(path):
        # Another process may be at work in an unfinished run: its files change while they are read.
        with contextlib.nullcontext() if finished else locked(folder):
            check_run(folder, read_config(path))
    elif not finished:
        check_workdir(config, folder)


def _common_data(results: Results) -> dict[str, str]:
    """What the finished runs were trained and tested on: `{data set: description}`."""
    data: dict[str, str] = {}
    for result in results.values():
        first = data.setdefault(result["config"]["dataset"], result["data"])
        if result["data"] != first:
            raise ValueError(f"Expected runs of one data set. Received: {', '.join(sorted((first, result['data'])))}")
    return data


def _train(
    config: Config,
    folder: str,
    data_dir: str | None,
    download: bool,
    expected_data: str | None,
    models: dict[str, str],
) -> None:
    import tensorflow as tf

    from experiments.train import make_deterministic, train

    make_deterministic()
    try:
        train(config, folder, data_dir=data_dir, download=download, expected_data=expected_data, models=models)
    except tf.errors.OpError as error:
        # Out of memory, mostly; the other rows may fit.
        raise RuntimeError(error.message) from error
