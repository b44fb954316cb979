"""What the README says was measured is what results/ holds."""

import importlib.util
import json
import re
import runpy
from pathlib import Path

import pytest

import charrnn
from charrnn.config import Budget, load_config

ROOT = Path(charrnn.__file__).parents[1]
RESULTS = ROOT / "results"

if not RESULTS.exists():
    pytest.skip("an installed charrnn has no results beside it", allow_module_level=True)


def test_the_readmes_table_is_drawn_from_the_results():
    tables = runpy.run_path(str(RESULTS / "measure.py"))["tables"]()
    assert tables.count("\n") > 2
    assert tables in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_trials_is_drawn_from_their_runs():
    tables = runpy.run_path(str(RESULTS / "trials.py"))["tables"]()
    assert tables.count("\n") > 60
    assert tables in (RESULTS / "README.md").read_text(encoding="utf-8")


def test_every_trial_names_its_command_seed_machine_and_commit():
    for line in (RESULTS / "trials.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        ending = f'{run["text"]}.txt --only "{run["trial"]}" --seeds {run["seed"]}'
        assert run["command"] == f"python results/trials.py {ending}"
        assert run["machine"]["cpu"]
        assert re.fullmatch(r"[0-9a-f]{7,}", run["commit"])


def test_measuring_one_more_seed_keeps_the_others(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("measure", RESULTS / "measure.py")
    measure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measure)
    monkeypatch.setattr(measure, "RUNS", tmp_path / "runs.jsonl")
    measure.RUNS.touch()

    shared = json.loads((RESULTS / "runs.jsonl").read_text(encoding="utf-8").splitlines()[0])

    def add(cpu: str, **nats: float) -> None:
        made = {**shared["runs"][0], "machine": {"cpu": cpu}, "nats_per_char_in_windows_of_256": 2}
        runs = [{**made, "seed": int(seed[1:]), "nats_per_char": value} for seed, value in nats.items()]
        measure.add({**shared, "runs": runs})

    add("this", s0=1.5, s2=1.6)
    add("this", s1=1.7, s2=1.8)
    (line,) = measure.lines()
    assert [(run["seed"], run["nats_per_char"]) for run in line["runs"]] == [(0, 1.5), (1, 1.7), (2, 1.8)]
    add("another", s1=1.9)  # a budget of time buys something else there
    assert measure.tables().endswith("| **1.800** (1.500 to 1.900) | 2.000 | 0, 1*, 2 |")


def test_every_result_names_its_command_seeds_machine_and_commit():
    for line in (RESULTS / "runs.jsonl").read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        named = result["text"] if result["text"] == "python" else f"{result['text']}.txt"
        assert result["command"].startswith(f"charrnn train {named} --budget {result['budget']}")
        assert [run["seed"] for run in result["runs"]] == sorted({run["seed"] for run in result["runs"]})
        assert all(run["machine"]["cpu"] for run in result["runs"])
        assert all(re.fullmatch(r"[0-9a-f]{7,}", run["commit"]) for run in result["runs"])


@pytest.mark.parametrize("name", ["shakespeare-1m", "shakespeare-20m", "shakespeare-60m", "novel"])
def test_a_shipped_recipe_names_the_figure_of_the_run_it_is_taken_from(name):
    path = ROOT / "configs" / f"{name}.yaml"
    said = re.search(r"seed (\d), (?:# )?came to ([\d.]+) nats", " ".join(path.read_text(encoding="utf-8").split()))
    config = load_config(path)
    lines = map(json.loads, (RESULTS / "runs.jsonl").read_text(encoding="utf-8").splitlines())
    every = [run for line in lines if line["text"] == config.corpus.source for run in line["runs"]]
    (run,) = (run for run in every if (str(run["seed"]), f"{run['nats_per_char']:.3f}") == (said[1], said[2]))
    assert run["model"] == config.model.model_dump()
    keys = ("batch_size", "seq_length", "learning_rate", "readout_rate")
    assert {key: run[key] for key in keys} == {key: getattr(config.training, key) for key in keys}
    assert Budget.parse(config.training.budget).epochs == pytest.approx(run["epoch"], rel=0.005)


def test_a_shipped_recipe_names_what_its_seeds_came_to():
    for line in map(json.loads, (RESULTS / "configs.jsonl").read_text(encoding="utf-8").splitlines()):
        said = (ROOT / "configs" / f"{line['config']}.yaml").read_text(encoding="utf-8").replace("\n#", "")
        *most, last = (f"{run['nats_per_char']:.3f}" for run in line["runs"])
        assert f"seeds 0, 1 and 2 came to {', '.join(most)} and {last}" in said


def test_the_runs_that_the_recipe_is_fitted_to_are_of_settings_that_exist():
    for line in (RESULTS / "recipe.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        load_config(flags=run["settings"])
        assert 0 < run["nats_per_char"] < 3


def test_the_table_of_the_grid_is_that_of_its_runs():
    readme = (RESULTS / "README.md").read_text(encoding="utf-8")
    runs = json.loads((RESULTS / "grid.json").read_text(encoding="utf-8"))["runs"]
    found = {tuple(run["values"].values()): run["nats_per_char"] for run in runs}
    assert len(found) == 36
    for units in (64, 128, 256, 512):
        cells = " | ".join(
            f"{found[cell, layers, units]:.3f}" for cell in ("rnn", "gru", "lstm") for layers in (1, 2, 3)
        )
        assert f"| {units} units | {cells} |" in readme


def test_the_readmes_figures_of_the_textbooks_run_are_those_of_the_results():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    by_epoch = json.loads((RESULTS / "textbook.jsonl").read_text(encoding="utf-8"))["training_perplexity"]
    first = [next(epoch for epoch, one in enumerate(by_epoch, 1) if one < limit) for limit in (1.3, 1.05)]
    for_good = max(epoch for epoch, one in enumerate(by_epoch, 2) if one >= 1.05)
    assert (
        f"below 1.3 at epoch {first[0]} and below 1.05 at epoch {first[1]}, jumps once and is back at epoch {for_good}"
        f", and ends at {by_epoch[-1]}"
    ) in readme


def test_the_readmes_figures_of_dynamic_evaluation_are_those_of_the_results():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    hour, _, own = map(json.loads, (RESULTS / "dynamic.jsonl").read_text(encoding="utf-8").splitlines())
    assert f"| 1.4182 | {hour['dynamic']['nats_per_char']:.4f} | |" in readme
    assert f"its {own['nats_per_char']:.3f} became {own['dynamic']['nats_per_char']:.3f} with `--dynamic`" in readme
    assert hour["dynamic"]["nats_per_char"] < hour["nats_per_char"]
    assert own["dynamic"]["nats_per_char"] > own["nats_per_char"]  # or the adapted weights had seen what they predict


def test_the_tables_figures_of_sampling_are_those_of_the_results():
    readme = (RESULTS / "README.md").read_text(encoding="utf-8")
    for line in (RESULTS / "sampling.jsonl").read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        (case,) = result["cases"]
        found = {one["name"]: one for one in case["sampling"]}
        for precision in ("float32", "int8"):
            one, many = (found[f"charrnn, {precision}, batch {lanes}"] for lanes in (1, 64))
            assert (
                f"| {case['num_layers']} x {case['hidden_size']}, {precision} | {one['chars_per_second']:,.0f} | "
                f"{one['fraction_of_read_bandwidth']:.0%}".replace("%", " % | ")
                + f"{one['ratio_to_call_per_character']:.1f} | {many['chars_per_second']:,.0f} | "
                f"{many['ratio_to_call_per_character']:.1f} |"
            ) in readme


def test_the_tables_figures_of_speed_are_those_of_the_results():
    readme, checked = (RESULTS / "README.md").read_text(encoding="utf-8"), 0
    for line in (RESULTS / "bench.jsonl").read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        assert result["command"].startswith("charrnn bench --json --seconds ")
        assert re.fullmatch(r"[0-9a-f]{7,}", result["commit"])
        (case,) = result["cases"]
        found = {one["name"]: one for one in case["training"]}
        ours, torchs = (found[f"charrnn {engine}, float32"] for engine in ("compiled", "torch"))
        speed = f"{ours['chars_per_second']:,.0f}"
        rows = [row for row in readme.splitlines() if row.startswith("|") and f" | {speed} | " in row]
        if not rows:  # the textbook's, which stand in a sentence
            assert speed in (ROOT / "README.md").read_text(encoding="utf-8")
            continue
        shown = [cell.strip() for cell in rows[0].strip("|").split("|")][2:]
        ratio = ours["chars_per_second"] / torchs["chars_per_second"]
        figures = [f"{ours['ratio_to_plain']:.2f}", f"{ratio:.2f}"]
        each, share = ours["ratio_to_call_per_character"], ours["fraction_of_large_gemm"]
        assert shown[:2] == figures
        assert shown[2] in ("", "" if each is None else f"{each:.1f}")
        assert shown[3] in ("", f"{share:.0%}".replace("%", " %"))
        checked += 1
    assert checked == 10


def test_the_readmes_ranges_of_speed_are_those_of_the_results():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())

    def cases(name: str) -> list[dict]:
        lines = (RESULTS / name).read_text(encoding="utf-8").splitlines()
        return [case for line in lines for case in json.loads(line)["cases"]]

    def of(case: dict, kind: str, name: str, ratio: str) -> float:
        return next(one[ratio] for one in case[kind] if one["name"] == name)

    training = [of(case, "training", "charrnn compiled, float32", "ratio_to_plain") for case in cases("bench.jsonl")]
    sampling = {
        precision: [
            of(case, "sampling", f"charrnn, {precision}, batch 1", "ratio_to_call_per_character")
            for case in cases("sampling.jsonl")
        ]
        for precision in ("float32", "int8")
    }
    floats, ints = sampling["float32"], sampling["int8"]
    assert f"trained {min(training):.1f} to {max(training):.1f} times as fast" in readme
    assert f"{min(floats):.1f} to {max(floats):.0f} times as fast" in readme
    assert f"with int8 weights {min(ints):.0f} to {max(ints):.0f} times" in readme
