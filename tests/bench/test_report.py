"""What `charrnn bench` prints: structure and honesty of the figures, never their size."""

import json
import math
import random
from collections.abc import Callable

import pytest
import torch
from typer.testing import CliRunner, Result

from charrnn import cli
from charrnn.bench import measuring, report, training
from charrnn.bench.timing import NOT_REACHED, Stopwatch, Timing
from charrnn.model.compiling import compiler_here
from tests.bench.test_contenders import CPU, TINY, case

SETTINGS = [argument for key, value in TINY.items() for argument in ("--set", f"{key}={value}")]
QUICK = [*SETTINGS, "--seconds", "0.5", "--vocabulary", "7"]


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large products take their time on a small machine, and nothing here is about their speed."""
    from charrnn.bench import machine

    monkeypatch.setattr(machine, "LARGE", (machine.Product(8, 8, 8), machine.Product(16, 4, 16)))


def made_up_clock() -> Callable[[], float]:
    """About a second later at each reading, so that no figure depends on the machine, and no two are the same."""
    generator, now = random.Random(0), [0.0]

    def clock() -> float:
        now[0] += generator.uniform(0.5, 1.5)
        return now[0]

    return clock


_ENOUGH = 240.0
"""Seconds of that clock in which every contender is reached."""


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["bench", *arguments])


@pytest.fixture(scope="module")
def record() -> dict:
    with pytest.MonkeyPatch.context() as patch:
        from charrnn.bench import machine

        patch.setattr(machine, "LARGE", (machine.Product(8, 8, 8),))
        return measuring.measure(case(), CPU, _ENOUGH, made_up_clock())


def figures(record: object) -> list[float]:
    if isinstance(record, dict):
        return [number for value in record.values() for number in figures(value)]
    if isinstance(record, list):
        return [number for value in record for number in figures(value)]
    return [record] if isinstance(record, int | float) else []


def test_json_is_one_object_with_the_machine_and_every_figure_by_its_unit(folder):
    done = bench(*QUICK, "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert set(found) == {"machine", "cases"}
    assert {"device", "cpu", "gpu", "threads", "torch", "python"} <= found["machine"].keys()
    (only,) = found["cases"]
    shape = [only[key] for key in ("cell", "num_layers", "hidden_size", "batch_size", "seq_length", "vocabulary")]
    assert shape == ["lstm", 2, 5, 3, 11, 7]
    assert only["flops_per_character"] == 6 * 475
    assert only["weight_bytes_per_character"] == 4 * (20 * 6 + 20 * 10 + 35)
    assert only["read_bytes_per_second"] > 0
    assert list(folder.iterdir()) == []
    assert "measuring lstm 2x5, batch 3 x 11 steps, 7 symbols" in done.stderr


def test_every_figure_is_positive_and_every_contender_has_all(record):
    assert all(number > 0 and math.isfinite(number) for number in figures(record))
    keys = {
        "name",
        "engine",
        "precision",
        "chars_per_second",
        "seconds_per_step",
        "repeats",
        "note",
        "ratio_to_plain",
        "ratio_to_call_per_character",
        "model_flops_per_second",
        "fraction_of_large_gemm",
        "fraction_of_window_gemm",
        "fraction_of_recurrent_gemm",
    }
    assert len(record["training"]) == 9 + bool(compiler_here())
    for contender in record["training"]:
        assert contender.keys() == keys
        assert contender["chars_per_second"] == pytest.approx(33 / contender["seconds_per_step"])
        assert contender["model_flops_per_second"] == pytest.approx(6 * 475 * contender["chars_per_second"])
    assert {product["shape"] for product in record["gemm"]} == {"recurrent", "window", "large"}
    assert {product["precision"] for product in record["gemm"]} == {"float32", "bfloat16"}
    assert {contender["lanes"] for contender in record["sampling"]} == {1, 16, 64}


def test_ratios_are_those_of_the_figures_beside_them(record):
    speeds = {contender["name"]: contender["chars_per_second"] for contender in record["training"]}
    for contender in record["training"]:
        speed = contender["chars_per_second"]
        assert contender["ratio_to_plain"] == pytest.approx(speed / speeds["plain PyTorch, float32"])
        each = speeds["one call per character, float32"]
        assert contender["ratio_to_call_per_character"] == pytest.approx(speed / each)
        best = max(
            product["flops_per_second"]
            for product in record["gemm"]
            if (product["shape"], product["precision"]) == ("large", contender["precision"])
        )
        assert contender["fraction_of_large_gemm"] == pytest.approx(contender["model_flops_per_second"] / best)
    ours = record["sampling"][0]
    plain = next(other for other in record["sampling"] if "torch.nn" in other["name"])
    assert ours["ratio_to_call_per_character"] == pytest.approx(ours["chars_per_second"] / plain["chars_per_second"])
    limit = record["read_bytes_per_second"] / record["weight_bytes_per_character"]
    assert ours["fraction_of_read_bandwidth"] == pytest.approx(ours["chars_per_second"] / limit)
    assert all(other["fraction_of_read_bandwidth"] is None for other in record["sampling"] if other["lanes"] > 1)


def test_without_a_measurement_there_is_no_figure_and_no_ratio():
    unmeasured = Timing(None, 0, NOT_REACHED)
    assert measuring.rate(10, unmeasured) is None
    assert measuring.rate(10, Timing(2.0, 3)) == 5
    assert measuring.ratio(3.0, None) is None
    assert measuring.ratio(None, 3.0) is None
    assert measuring.ratio(3.0, 1.5) == 2
    gemm = [{"shape": "large", "precision": "bfloat16", "flops_per_second": None}]
    assert measuring.best_gemm(gemm, "large", "bfloat16") is None


def test_tables_name_every_contender_and_say_what_was_not_measured(record):
    lost = {**record["training"][0], "chars_per_second": None, "ratio_to_plain": None, "note": NOT_REACHED}
    shown = "\n".join(table.aligned() for table in report.tables({**record, "training": [lost]}, "label"))
    assert f"  {NOT_REACHED}" in shown
    noteless = {key: _without_notes(record[key]) for key in ("training", "gemm", "sampling")}
    shown = "\n".join(table.aligned() for table in report.tables({**record, **noteless}, "label"))
    for contender in [*record["training"], *record["sampling"]]:
        assert contender["name"] in shown
    for part in ("x plain", "x per char", "of large GEMM", "of read bandwidth", "GFLOP/s", "GB/s", "repeats"):
        assert part in shown
    assert "note" not in shown


def _without_notes(records: list[dict]) -> list[dict]:
    return [{**record, "note": ""} for record in records]


def test_columns_of_figures_end_at_the_same_place():
    table = report.Table("title", ("name", "figure", "note"), [("a", "1", ""), ("longer", "1,000,000", "why")])
    assert table.aligned().splitlines() == [
        "title",
        "  name       figure  note",
        "  a               1",
        "  longer  1,000,000  why",
    ]


def test_the_command_prints_tables_and_writes_nothing(folder):
    done = bench(*QUICK)
    assert done.exit_code == 0
    for part in (
        "training lstm 2x5, batch 3 x 11 steps",
        "charrnn written, bfloat16",
        "one call per character",
        "torch ",
    ):
        assert part in done.stdout
    assert "measuring" not in done.stdout
    assert list(folder.iterdir()) == []


def test_on_a_terminal_the_tables_are_drawn(record, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for table in report.tables(record, "label"):
        cli._print_table(table)
    drawn = capsys.readouterr().out
    assert "━" in drawn or "─" in drawn
    assert "plain PyTorch, bfloat16 autocast" in drawn


def test_without_options_of_a_configuration_the_grid_is_measured(monkeypatch, record):
    measured = []
    monkeypatch.setattr(measuring, "measure", lambda case, *rest: measured.append((case.label, rest)) or record)
    done = bench("--device", "cpu", "--seconds", "3", "--json")
    assert done.exit_code == 0
    assert len(json.loads(done.stdout)["cases"]) == 12
    assert measured[0] == ("rnn 2x128, batch 50 x 50 steps, 66 symbols", (CPU, 3.0))
    measured.clear()
    assert bench("--set", "level=byte").exit_code == 0
    assert [label for label, _ in measured] == ["lstm 1x256, batch 32 x 32 steps, 256 symbols"]


def test_the_global_random_state_is_left_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    measuring.measure(case(), CPU, _ENOUGH, made_up_clock())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "-1"], "seconds = -1.0: expected a number above 0"),
        (["--seconds", "nan"], "seconds = nan: expected a number above 0"),
        (["--vocabulary", "1"], "vocabulary = 1: expected a whole number from 2"),
        (["--device", "tpu"], "device tpu: not to be had here"),
        (["--set", "hiden_size=3"], "did you mean model.hidden_size?"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot read the configuration"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_with_2_before_anything_is_measured(arguments, message):
    done = bench(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert "measuring" not in done.stderr


def test_ctrl_c_leaves_with_130_and_no_half_measured_case(monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "measure", interrupted)
    done = bench(*QUICK, "--json")
    assert done.exit_code == 130
    assert done.stdout == ""


def test_the_process_of_others_has_started_before_any_time_counts(monkeypatch):
    happened = []
    monkeypatch.setattr(training.Elsewhere, "start", lambda self: happened.append("start"))

    def turns(contenders, *_):
        happened.append("turns")
        return {contender.name: Timing(1.0, 1) for contender in contenders}

    monkeypatch.setattr(measuring, "take_turns", turns)
    measuring.measure_training(case(), CPU, 1.0, Stopwatch(lambda: None, lambda: 0.0))
    assert happened == ["start"] * 3 + ["turns"]
