"""Measures what a budget buys, and draws the README's tables from what was measured.

python results/measure.py TEXT BUDGET [--seeds 0,1,2] [--set key=value]...   trains, evaluates, writes into runs.jsonl
python results/measure.py --tables                                           prints the tables

A line holds the command, and for each seed the validation figures, the commit and the machine. Seeds that were measured
before stay beside the new ones; the table marks those of another processor than its first run's, since a budget of time
buys something else there. Nothing else should run on the machine meanwhile.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
RUNS = HERE / "runs.jsonl"


def charrnn(*arguments: str) -> str:
    """What a command prints on stdout."""
    command = [sys.executable, "-m", "charrnn", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def train(text: str, budget: str, settings: list[str], seed: int, run: Path) -> dict[str, Any]:
    """Train with one seed; the figures of the best model, and what the recipe chose."""
    options = [part for setting in [*settings, f"seed={seed}"] for part in ("--set", setting)]
    charrnn("train", text, "--budget", budget, "--run", str(run), *options)
    found = json.loads(charrnn("evaluate", str(run), "--window", "256", "--json"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [line for line in lines if line["type"] == "training"][-1]
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    return {
        "seed": seed,
        "nats_per_char": found["nats_per_char"],
        "nats_per_char_in_windows_of_256": found["nats_per_char_in_windows"],
        **{key: last[key] for key in ("step", "epoch", "seconds")},
        "model": config["model"],
        **{key: config["training"][key] for key in ("batch_size", "seq_length", "learning_rate", "readout_rate")},
    }


def measure(text: str, budget: str, settings: list[str], seeds: list[int]) -> dict[str, Any]:
    """One line of runs.jsonl. Without samples on the way, unless the settings name some."""
    import torch

    from charrnn.bench import machine

    made = {"commit": commit(), "machine": machine.description(torch.device("cpu"))}
    path = Path(text)
    said = {setting.partition("=")[0].rpartition(".")[2] for setting in settings}
    settings = settings if "samples" in said else [*settings, "samples=0"]
    folder = Path(tempfile.mkdtemp())
    try:
        runs = [train(text, budget, settings, seed, folder / str(seed)) | made for seed in seeds]
    finally:
        shutil.rmtree(folder)
    options = "".join(f" --set {setting}" for setting in settings)
    return {
        "text": path.stem,
        "budget": budget,
        "command": f"charrnn train {path.name} --budget {budget}{options}",
        "runs": runs,
    }


def commit() -> str:
    """Of the code that is about to be measured, which has to be in one, and stay so until the end."""
    code = HERE.parent / "charrnn"
    if _git("status", "--porcelain", "--", str(code)):
        raise SystemExit(f"{code} differs from its commit, so nobody could measure this again: commit it first")
    return _git("rev-parse", "--short", "HEAD")


def _git(*arguments: str) -> str:
    said = subprocess.run(["git", *arguments], stdout=subprocess.PIPE, cwd=HERE, encoding="utf-8", check=True)
    return said.stdout.strip()


def add(line: dict[str, Any]) -> None:
    """Put a line in place of an earlier one of its command, or at the end; without losing another seed's run."""
    kept = {one["command"]: one for one in lines()}
    earlier = kept.get(line["command"], {"runs": []})
    runs = {run["seed"]: run for run in [*earlier["runs"], *line["runs"]]}
    kept[line["command"]] = {**line, "runs": [runs[seed] for seed in sorted(runs)]}
    RUNS.write_text("".join(json.dumps(one) + "\n" for one in kept.values()), encoding="utf-8")


def lines() -> list[dict[str, Any]]:
    """All that was measured."""
    return [json.loads(line) for line in RUNS.read_text(encoding="utf-8").splitlines()]


def tables() -> str:
    """The README's table of budgets, in Markdown."""
    rows = [
        "| text | budget | model | epochs | nats per character | in windows of 256 | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    found = lines()
    usual = found[0]["runs"][0]["machine"]["cpu"]
    rows += ["| " + " | ".join(row(line, usual)) + " |" for line in found]
    return "\n".join(rows)


def row(line: dict[str, Any], usual: str) -> list[str]:
    """The medians over the seeds of one line, and the range of the losses; a star for another processor than usual."""
    runs, model = line["runs"], line["runs"][0]["model"]
    size, dropout, weight_dropout = (
        " to ".join(f"{one:g}" for one in dict.fromkeys([min(found), max(found)]))
        for found in ([run["model"][key] for run in runs] for key in ("hidden_size", "dropout", "weight_dropout"))
    )
    losses = [run["nats_per_char"] for run in runs]
    spread = f" ({min(losses):.3f} to {max(losses):.3f})" if len(runs) > 1 else ""
    windows = statistics.median(run["nats_per_char_in_windows_of_256"] for run in runs)
    dropped = "" if dropout == "0" else f", dropout {dropout}, {weight_dropout}"
    return [
        line["text"],
        line["budget"],
        f"{model['cell'].upper()} {model['num_layers']} x {size}{dropped}",
        f"{statistics.median(run['epoch'] for run in runs):.1f}",
        f"**{statistics.median(losses):.3f}**{spread}",
        f"{windows:.3f}",
        ", ".join(f"{run['seed']}{'' if run['machine']['cpu'] == usual else '*'}" for run in runs),
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?")
    parser.add_argument("budget", nargs="?")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tables", action="store_true")
    given = parser.parse_args()
    if given.tables:
        print(tables())
    elif given.text and given.budget:
        seeds = [int(seed) for seed in given.seeds.split(",")]
        add(measure(given.text, given.budget, given.settings, seeds))
        print(tables())
    else:
        parser.error("TEXT and BUDGET, or --tables")


if __name__ == "__main__":
    main()
