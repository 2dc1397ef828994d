"""New users by their features alone: SparCode, its twins and the cold-start models that it is compared with.

Source: Su et al., "Beyond two-tower matching", SIGIR 2023, table 1, on Deezer's cold-start users; as there: whole users
held out, every positive of theirs is to be found in the whole catalogue, Precision, Recall and NDCG at 50. Deezer's
files are not to be had here: `deezer-cold-start` is this table's last data set for who has them, and its figures are
of KuaiRand-Pure (``benchmarks/kuairand_cold.py``): long views, 30 features of users, none of them a vector that other
people's model made of their behaviour, as Deezer's are.

Ours: users 7:1:2, so that a test has twice the users, and another draw of them for every seed; Deezer's own partition
(70,000 warm users, 20,000 and 10,000 cold ones) is not used, since a split draws users from the log and does not read
who is warm, so that warm ones are asked about too and figures are not to be set beside the printed ones. Every trained
row chooses between two learning rates on validation data, and the counted one between two numbers of clusters; vectors
of 32 (MeLU 16), one hidden layer of 128 (DSSM none: better so on a validation draw) or one of attention, 0.3 of
features and of hidden numbers dropped in training (without that the two-tower overfits; MeLU has features to drop
alone); batches of 512, the best of 6 epochs by validation recall. Two-towers and SparCode learn against 256 evenly
drawn items that all rows share (MeLU 32: its scorer is dear), DropoutNet and DeezerNet by their own losses. Sizes are
for two slow cores: ``kuairand-cold``, a cut of 4,000 users, takes half an hour there, all 15,971 users two hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twotower.experiment.run import Data, Evaluation, ModelSection, Run
from twotower.reproduce.sparcode.measure import measure_dense
from twotower.reproduce.study import Table
from twotower.training.config import Objective, Sampling, Training
from twotower.training.sources import NegativeSource

RATES = (1e-3, 6e-3)
CLUSTERS = (10, 50)
NEGATIVES = 256
OF_MELU = 32
COLUMNS = ("recall@50", "ndcg@50", "precision@50", "precision_min@50", "seconds_per_epoch")
DATA = Data(split="cold-users", split_options={"ratio": [7, 1, 2], "seed": 0})
JUDGED = Evaluation(ks=(20, 50))
DROPPED: dict[str, Any] = {"feature_dropout": 0.3, "dropout": 0.3}
TOWER: dict[str, Any] = {"dim": 32, "field_dim": 16, "hidden": [], "history_length": 0, **DROPPED}
ENCODER: dict[str, Any] = {"dim": 32, "history_length": 1, "user_features": True, "layers": 1, **DROPPED}
FACTORS: dict[str, Any] = {"factor_dim": 32, "field_dim": 16, "hidden": [128], **DROPPED}
MELU: dict[str, Any] = {"dim": 16, "field_dim": 16, "hidden": [32, 32], "anchors": 10, "history_length": 3}


def trained(model: str, settings: dict[str, Any], negatives: int = NEGATIVES) -> list[Run]:
    """Return the runs of a trained row, one a learning rate."""
    return [
        Run(
            data=DATA,
            model=ModelSection(model, settings),
            objective=Objective("sampled_softmax"),
            sampling=Sampling((NegativeSource("uniform", {"number": negatives}),)),
            training=Training(epochs=6, batch_size=512, learning_rate=rate, schedule="linear", metric="recall@50"),
            evaluation=JUDGED,
        )
        for rate in RATES
    ]


def counted(model: str, settings: dict[str, Any]) -> Run:
    """Return the run of a closed form."""
    return Run(data=DATA, model=ModelSection(model, settings), training=Training(metric="recall@50"), evaluation=JUDGED)


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return every row of the table."""
    return {
        "popularity": [counted("popularity", {})],
        "cluster_popularity": [counted("cluster_popularity", {"clusters": number}) for number in CLUSTERS],
        "dssm": trained("two_tower", {**TOWER, "score": "cosine", "temperature": 0.2}),
        "self_attention": trained("sparcode_twin", {**ENCODER, "temperature": 0.2}),
        "dropoutnet": trained("dropoutnet", {**FACTORS, "dim": 32}, 1),
        "dropoutnet_events": trained("dropoutnet", {**FACTORS, "dim": 32, "target": "events"}),
        "melu": trained("melu", {**MELU, "feature_dropout": 0.3}, OF_MELU),
        "deezernet": trained("deezernet", FACTORS, 1),
        "deezernet_clusters": trained("deezernet", {**FACTORS, "answer": "clusters"}, 1),
        "sparcode_dnn": trained("sparcode", {**ENCODER, "tokenizer": "dnn"}),
        "sparcode": trained("sparcode", ENCODER),
        "all_to_all": trained("sparcode", {**ENCODER, "codes": "none"}),
    }


TABLE = Table(
    "sparcode-cold",
    "New users by their features alone: SparCode and cold-start models",
    ("kuairand-cold-whole", "kuairand-cold", "deezer-cold-start"),
    variants,
    measure_dense,
    "dssm",
    COLUMNS,
    3,
    notes={
        "popularity": "counted lists of pairs have no row, since a user without any event has nothing to look up.",
        "dropoutnet": "trained to the scores of the factorisation, as printed.",
        "dropoutnet_events": "the same towers and dropout, trained by the sampled softmax.",
        "melu": "met without any event, so without a local step; trained with the latest three as support.",
        "deezernet_clusters": "its semi-personalised form: what is popular among the users of the nearest cluster.",
        "self_attention": "the two-tower twin of sparcode (TTM w/ SA).",
        "all_to_all": "sparcode without its quantiser.",
    },
)
TABLES = (TABLE,)
