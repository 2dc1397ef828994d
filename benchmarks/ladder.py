"""Climb the ladder of `twotower fit` on the logs of default_sets.py, several seeds and many logs side by side.

For each log and seed: the closed forms, `two_tower` and `sasrec` with their default runs, mixtures of two of the best
four with the weight that is best on validation, and the choice of `fit`: the best is mixed with the next three, and
the simpler one is taken where the paired test on validation cannot tell it from the best. The test chooses nothing;
afterwards the choice is compared with the best closed form on the users of the test. A finished log and seed is a line
of JSON.

    python benchmarks/default_sets.py SETS
    python benchmarks/ladder.py SETS --out lines.jsonl --seconds 220 --jobs 18 --device cuda
    python benchmarks/ladder.py --judge benchmarks/results/ladder.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import tune_defaults

CLOSED = ("popularity", "item_cosine", "item_lists", "ease")
NEURAL = ("two_tower", "sasrec")
METRIC = "ndcg@10"
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Half width of a 95 % interval over so many seeds, in standard errors."""
Line = dict[str, Any]


def climb(folder: Path, seed: int, device: str, closed: tuple[str, ...] = CLOSED, limit: float = 0.0) -> Line:
    """One log and one seed; with a limit a training ends after so many seconds, as under the budget of `fit`."""
    import torch

    torch.set_num_threads(1)
    from twotower.data.dataset import Dataset
    from twotower.evaluation.compare import compare
    from twotower.evaluation.protocol import Protocol
    from twotower.evaluation.run import evaluate
    from twotower.experiment.choose import climbed
    from twotower.experiment.defaults import spelled_out, with_choice
    from twotower.experiment.ladder.blend import OTHERS, mixture_of
    from twotower.experiment.ladder.budget import TimeLimit
    from twotower.experiment.ladder.pick import pick
    from twotower.experiment.recipes import default_run
    from twotower.experiment.run import ModelSection, Run
    from twotower.experiment.train import train

    started = time.perf_counter()
    dataset = Dataset.load(folder, verify=False)
    line: Line = {"set": folder.name, "seed": seed, "models": {}, "errors": {}}
    models, runs, results = {}, {}, {}
    there = dataset.to(torch.device(device))

    def judged(model: Any, split: Any, part: str) -> Any:
        return evaluate(model, there, getattr(split, part), Protocol(ks=(10,), split=part))

    def noted(name: str, model: Any, split: Any, since: float, **more: Any) -> None:
        results[name] = [judged(model, split, part) for part in ("validation", "test")]
        validation, test = (one.metrics[METRIC] for one in results[name])
        recall, took = results[name][1].metrics["recall@10"], round(time.perf_counter() - since, 1)
        line["models"][name] = {"validation": validation, "test": test, "recall": recall, "seconds": took, **more}

    split: Any = None
    for name in (*closed, *NEURAL):
        since = time.perf_counter()
        run = default_run(name).with_settings([f"training.seed={seed}"])
        run = run.with_settings([f"training.device={device if name in NEURAL else 'cpu'}"])
        try:
            on_gpu = name == "ease" and there.device.type == "cuda"
            watch = [TimeLimit(limit)] if limit and name in NEURAL else []
            trained = solved_on_gpu(run, there) if on_gpu else train(run, dataset=dataset, callbacks=watch)
            models[name], runs[name] = trained.model.to(there.device).eval(), spelled_out(trained.run)
            split = split or trained.split
            noted(name, models[name], split, since, epochs=len(trained.records))
        except Exception as error:  # one model that fails is noted, not the end of all
            line["errors"][name] = f"{type(error).__name__}: {error}"[:200]
    best_first = sorted(models, key=lambda name: -results[name][0].metrics[METRIC])
    every = list(itertools.combinations(best_first[:4], 2))  # those with the best one first
    for pair in every if there.device.type == "cuda" else every[:OTHERS]:
        since = time.perf_counter()
        settings: Line = {"first": pair[0], "second": pair[1]}
        settings |= {f"{key}_settings": runs[settings[key]].model.settings for key in ("first", "second")}
        run = spelled_out(Run(model=ModelSection("mixture", settings)))
        try:
            mixture = mixture_of(run, there, [models[name] for name in pair])

            def score(weight: float, mixture: Any = mixture) -> float:
                mixture.settle(weight)
                return float(judged(mixture, split, "validation").metrics[METRIC])

            mixture.settle(climbed(mixture, 1.0, score, metric=METRIC))
            weight = with_choice(run, mixture).model.settings["weight"]
            noted(" + ".join(pair), mixture, split, since, weight=weight)
        except Exception as error:
            line["errors"][" + ".join(pair)] = f"{type(error).__name__}: {error}"[:200]
    mixed = [" + ".join(pair) for pair in every[:OTHERS] if " + ".join(pair) in results]
    kept = max(mixed, key=lambda name: results[name][0].metrics[METRIC], default="")
    ladder = [name for name in (*closed, *NEURAL, kept) if name in results]
    choice = pick({name: results[name][0] for name in ladder}, METRIC)
    known = [name for name in closed if name in results]
    rival = max(known, key=lambda name: results[name][1].metrics[METRIC])
    line |= {"ladder": ladder, "choice": choice.name, "best_by_validation": choice.best, "best_baseline": rival}
    if choice.name != rival:
        table = compare({name: results[name][1] for name in (rival, choice.name)}, [METRIC], reference=rival)
        line["p_against_best_baseline"] = next(row.p_value for row in table.rows if row.model == choice.name)
    return line | {"seconds": round(time.perf_counter() - started, 1)}


def solved_on_gpu(run: Any, dataset: Any) -> Any:
    """EASE as `train` gives it, its equations solved on the GPU of the data set; the penalty chosen on validation."""
    import types

    import torch

    from twotower.experiment.catalogue import split_of
    from twotower.experiment.choose import fit_closed_form
    from twotower.experiment.defaults import with_choice
    from twotower.experiment.learn import validation_metrics
    from twotower.models.baselines.cooccurrence import incidence
    from twotower.models.registry import build_model

    model: Any = build_model("ease", dataset.schema).to(dataset.device)
    split = split_of(run, dataset)

    def fit_log(log: Any) -> None:
        seen = incidence(log, dataset.schema.num_items)[:, 2:]
        counts = torch.from_numpy((seen.T @ seen).toarray()).to(dataset.device, torch.float64)
        counts.diagonal().add_(model.lambda_ or model.first_choice(log))
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(counts))
        weights = (inverse / -inverse.diagonal()).float()
        model.weights[2:, 2:] = weights.fill_diagonal_(0.0)

    model.fit_log = fit_log
    fit_closed_form(
        model, split, split.train, lambda one: validation_metrics(one, run, dataset, split)[METRIC], metric=METRIC
    )
    return types.SimpleNamespace(model=model, run=with_choice(run, model), split=split, records=[])


def interval(values: list[float]) -> tuple[float, list[float] | None]:
    """Mean of one figure over seeds, and its 95 % interval where there are 2 to 5."""
    mean = sum(values) / len(values)
    if len(values) not in STUDENT:
        return mean, None
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return mean, [mean - half, mean + half]


def best_mixture(line: Line) -> str:
    """The mixture of the best model on validation with another that is best there; empty where there is none."""
    single = {name: one["validation"] for name, one in line["models"].items() if " + " not in name}
    first = max(single, key=lambda name: single[name])
    mixed = [name for name in line["models"] if name.startswith(f"{first} + ")]
    return max(mixed, key=lambda name: line["models"][name]["validation"], default="")


def more_closed(lines: list[Line], more: list[Line]) -> dict[str, dict[str, float]]:
    """Test figures of further closed forms by log: defaults, and the setting that is best on validation where it wins.

    Args:
        lines: of this script, whose models have their default settings.
        more: of tune_defaults.py.
    """
    found: dict[str, dict[str, float]] = {}
    defaults = {(line["set"], name): one["validation"] for line in lines for name, one in line["models"].items()}
    best: dict[tuple[str, str], Line] = {}
    for line in more:
        if "test" not in line:
            continue
        if line["setting"] == "default":
            found.setdefault(line["set"], {})[line["model"]] = line["test"]
            continue
        key = (line["set"], line["model"])
        bar = max(defaults.get(key, 0.0), best[key]["validation"] if key in best else 0.0)
        if (line.get("validation") or 0.0) > bar:
            best[key] = line
    for (name, model), line in best.items():
        found.setdefault(name, {})[f"{model}, {line['setting']}"] = line["test"]
    return found


def summary(lines: list[Line], closed: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The ratios as geometric means over logs, by seed, and on which logs what fell short.

    Args:
        lines: of this script.
        closed: test figures of further closed forms, by log and model.
    """
    seeds = sorted({line["seed"] for line in lines})
    logs = sorted({line["set"] for line in lines})
    found: dict[str, Any] = {"logs": logs, "seeds": seeds, "intervals_95": {}, "by_seed": {}, "logs_of": {}}
    fixed: dict[str, dict[str, float]] = {}  # closed forms have no seed
    for line in lines:
        fixed.setdefault(line["set"], dict(closed.get(line["set"], {}))).update(
            {name: one["test"] for name, one in line["models"].items() if name in CLOSED}
        )
    ratios: dict[str, dict[str, dict[int, float]]] = {}
    for line in lines:
        tests = {name: one["test"] for name, one in line["models"].items()}
        baselines = fixed[line["set"]]
        best = max(baselines.values())
        for name, value, rival in (
            ("two_tower_over_ease", tests.get("two_tower"), baselines.get("ease")),
            ("sasrec_over_ease", tests.get("sasrec"), baselines.get("ease")),
            ("better_neural_over_best_baseline", max((tests[one] for one in NEURAL if one in tests), default=0), best),
            ("best_mixture_over_best_baseline", tests.get(best_mixture(line)), best),
            ("best_of_ladder_over_best_baseline", tests[line["choice"]], best),
        ):
            if value and rival:
                ratios.setdefault(name, {}).setdefault(line["set"], {})[line["seed"]] = value / rival
    for name, by_log in ratios.items():
        whole = {log: values for log, values in by_log.items() if len(values) == len(seeds)}
        means = [math.exp(sum(math.log(values[seed]) for values in whole.values()) / len(whole)) for seed in seeds]
        found[name], found["intervals_95"][name] = interval(means)
        found["by_seed"][name] = [round(mean, 4) for mean in means]
        found["logs_of"][name] = len(whole)
    found["below_popularity"] = sorted(
        {
            line["set"]
            for line in lines
            for name in NEURAL
            if name in line["models"] and line["models"][name]["test"] < line["models"]["popularity"]["test"]
        }
    )
    found["choice_behind_best_baseline"] = [
        f"{line['set']}, seed {line['seed']}: {line['choice']} {line['models'][line['choice']]['test']:.4f} behind "
        f"{line['best_baseline']} {line['models'][line['best_baseline']]['test']:.4f}, "
        f"p = {line.get('p_against_best_baseline', 1.0):.3f}"
        for line in lines
        if line["models"][line["choice"]]["test"] < line["models"][line["best_baseline"]]["test"]
    ]
    return found


def main() -> None:
    """Climb what is not done yet, or judge what is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=220)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--names", default="", help="names of logs, with commas; default: all")
    parser.add_argument("--closed", default=",".join(CLOSED), help="closed forms, with commas")
    parser.add_argument("--judge", type=Path, help="print the ratios of finished lines")
    parser.add_argument(
        "--also", type=Path, action="append", default=[], help="with --judge: closed forms, lines of tune_defaults.py"
    )
    given = parser.parse_args()
    if given.judge:
        lines = tune_defaults.read(given.judge)
        more = [line for path in given.also for line in tune_defaults.read(path)]
        print(json.dumps(summary(lines, more_closed(lines, more)), indent=1))
        return
    done = {(line["set"], line["seed"]) for line in tune_defaults.read(given.out)}
    names = given.names.split(",") if given.names else sorted(one.name for one in given.sets.iterdir() if one.is_dir())
    waiting: list[tuple[Any, ...]] = [
        (given.sets / name, seed, given.device, tuple(given.closed.split(",")))
        for seed in range(given.seeds)
        for name in names
        if (name, seed) not in done
    ]
    print(f"{len(done)} done, {len(waiting)} to do", flush=True)
    tune_defaults.work(waiting, given.out, jobs=given.jobs, seconds=given.seconds, task=climb)


if __name__ == "__main__":
    main()
