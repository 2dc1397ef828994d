"""Your own data frame: from a log in memory to recommendations with your own ids.

Run it with ``python examples/own_data_frame.py``. Any pandas, Polars or Arrow table will do in place of the dict.
"""

from __future__ import annotations

import random

import twotower


def listening_log() -> dict[str, list[object]]:
    """Forty listeners of two tastes, each with twelve songs in a row."""
    draw = random.Random(3)
    rows: dict[str, list[object]] = {"listener": [], "song": [], "time": []}
    for listener in range(40):
        taste = "jazz" if listener % 2 else "rock"
        for step, number in enumerate(draw.sample(range(15), 12)):
            rows["listener"].append(f"listener-{listener}")
            rows["song"].append(f"{taste}-{number}")
            rows["time"].append(1_700_000_000 + 3_600 * step)
    return rows


def main() -> None:
    """Train, compare with the baselines, and recommend."""
    data = twotower.Dataset.from_frames(listening_log(), user="listener", item="song", time="time")
    trained = {name: twotower.train(name, data, to=f"runs/{name}") for name in ("popularity", "ease", "item_cosine")}
    print(twotower.compare(trained))
    for answer in twotower.load("runs/ease").recommend(history=["jazz-3", "jazz-7"], k=3):
        print(f"{answer.id}  {answer.score:.3f}")


if __name__ == "__main__":
    main()
