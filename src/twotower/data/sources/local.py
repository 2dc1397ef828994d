"""Data sets that are read from Parquet folders only: nobody publishes them in this form at a stable address."""

from __future__ import annotations

from pathlib import Path

from twotower.core.errors import InputError
from twotower.data.prepare.spec import Spec
from twotower.data.sources import movielens
from twotower.data.sources.base import Source

AMAZON = "Julian McAuley, UCSD, from Amazon's pages: for research; the publisher gives no licence text."


def read(files: Path, out: Path, category: str | None) -> Spec:
    """Refuse: what is not a known Parquet folder cannot be read.

    Raises:
        InputError: always.
    """
    raise InputError(f"{files}: not the Parquet folder of this data set; see its files in the reference of data sets")


SOURCES = (
    Source(
        "ml-latest-small-2018",
        "MovieLens latest-small of September 2018: 100,836 ratings of 610 users",
        "https://grouplens.org/datasets/movielens/latest/",
        movielens.LICENCE,
        movielens.CITATION,
        read,
        restricted=True,
    ),
    Source(
        "yelp-2019",
        "Yelp as used by S3-Rec: 316,354 reviews of 30,431 users, in order",
        "https://www.yelp.com/dataset",
        "Yelp Dataset License: academic use only; no commercial use, no passing on.",
        "Yelp Inc. 2019. Yelp Open Dataset.",
        read,
        restricted=True,
    ),
    Source(
        "amazon-instruments-2018",
        "Amazon Musical Instruments 2018, 5-core, as used by LC-Rec: 206,153 reviews, in order",
        "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
        AMAZON,
        "Jianmo Ni, Jiacheng Li and Julian McAuley. 2019. Justifying Recommendations using Distantly-Labeled Reviews "
        "and Fine-Grained Aspects. EMNLP-IJCNLP 2019. doi:10.18653/v1/D19-1018",
        read,
        restricted=True,
    ),
    Source(
        "citeulike-a",
        "CiteULike-a: 204,986 articles kept by 5,551 users",
        "https://github.com/js05212/citeulike-a",
        "No licence text; the authors ask for citation.",
        "Hao Wang, Binyi Chen and Wu-Jun Li. 2013. Collaborative Topic Regression with Social Regularization for Tag "
        "Recommendation. IJCAI 2013.",
        read,
    ),
    Source(
        "lastfm-hetrec2011",
        "Last.fm HetRec 2011: 92,834 artists heard by 1,892 users",
        "https://grouplens.org/datasets/hetrec-2011/",
        "Last.fm and GroupLens: non-commercial research with acknowledgement.",
        "Iván Cantador, Peter Brusilovsky and Tsvi Kuflik. 2011. Second Workshop on Information Heterogeneity and "
        "Fusion in Recommender Systems (HetRec 2011). RecSys 2011.",
        read,
        restricted=True,
    ),
    Source(
        "sessions-diginetica",
        "Diginetica as used by SR-GNN: 982,961 clicks in 202,633 sessions, in order",
        "https://competitions.codalab.org/competitions/11161",
        "Data of the CIKM Cup 2016: no licence text.",
        "CIKM Cup 2016 Track 2: Personalized E-Commerce Search Challenge, DIGINETICA.",
        read,
        restricted=True,
    ),
)
