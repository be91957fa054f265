"""The engine of jobs: what is finished is not done again, what does not fit is refused before anything runs."""

import pytest

from experiments.files import read_json, write_json
from experiments.runs import Job, run_jobs


def job(folder, name, made, **more):
    """A job whose result is its name; `made` lists what was done."""

    def make(results):
        made.append((name, sorted(results)))
        return {"name": name, "settings": more.get("settings")}

    return Job(name, str(folder / f"{name}.json"), make, **more)


def test_jobs_are_done_once_and_see_the_results_before_them(tmp_path, capsys):
    made = []
    jobs = [job(tmp_path, name, made, settings={"T": 32}) for name in ("a", "b", "c")]
    write_json(tmp_path / "b.json", {"name": "b", "settings": {"T": 32}})
    results, failures = run_jobs(jobs, "here")
    assert made == [("a", ["b"]), ("c", ["a", "b"])] and list(results) == ["a", "b", "c"] and not failures
    assert read_json(tmp_path / "a.json") == results["a"]
    printed = capsys.readouterr().out
    assert "1 of 3 runs are finished in here" in printed
    assert "[1/2] a\n" in printed and "[2/2] c, about 0 minutes left" in printed
    assert run_jobs(jobs, "here")[0] == results and len(made) == 2


def test_other_settings_are_refused_before_anything_runs(tmp_path):
    made = []
    write_json(tmp_path / "b.json", {"settings": {"T": 16}})
    jobs = [job(tmp_path, name, made, settings={"T": 32}) for name in ("a", "b")]
    with pytest.raises(FileExistsError, match=r"Expected .*b.json to hold what is asked for. Received: T: 16 there"):
        run_jobs(jobs, "here")
    write_json(tmp_path / "config.json", {"T": 8})
    claimed = job(tmp_path, "c", made, settings={"T": 32}, claim=str(tmp_path / "config.json"))
    with pytest.raises(FileExistsError, match="T: 8 there, 32 asked"):
        run_jobs([claimed], "here")
    assert made == []


def test_results_that_tell_no_settings_are_refused_or_replaced(tmp_path):
    made = []
    write_json(tmp_path / "b.json", {"name": "old"})
    with pytest.raises(FileExistsError, match=r"Expected new result files. Received: .*b.json. Pass --overwrite."):
        run_jobs([job(tmp_path, name, made) for name in ("a", "b")], "here")
    assert made == [] and read_json(tmp_path / "b.json") == {"name": "old"}
    results, _ = run_jobs([job(tmp_path, name, made, overwrite=True) for name in ("a", "b")], "here")
    assert [name for name, _ in made] == ["a", "b"] and results["b"]["name"] == "b"


def test_a_failure_stops_the_others_unless_it_is_named(tmp_path):
    made = []

    def fail(results):
        raise RuntimeError("out of memory")

    failing = Job("a", str(tmp_path / "a.json"), fail, failures=(RuntimeError,))
    results, failures = run_jobs([failing, job(tmp_path, "b", made)], "here")
    assert list(results) == ["b"] and failures == {"a": "RuntimeError: out of memory"}
    with pytest.raises(RuntimeError, match="out of memory"):
        run_jobs([Job("a", str(tmp_path / "a.json"), fail), job(tmp_path, "c", made)], "here")
    assert [name for name, _ in made] == ["b"]


def test_the_check_sees_the_results_at_the_beginning_and_after_each_job(tmp_path):
    seen = []
    run_jobs([job(tmp_path, name, []) for name in ("a", "b")], "here", lambda results: seen.append(sorted(results)))
    assert seen == [[], ["a"], ["a", "b"]]
