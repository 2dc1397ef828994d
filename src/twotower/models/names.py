"""The names of our models and where each is found; no more, so that a list of them needs no PyTorch."""

from __future__ import annotations

GROUP = "twotower.models"
"""Entry points under which other packages name models."""

KNOWN = {
    "two_tower": "twotower.models.two_tower:TwoTower",
    "sasrec": "twotower.models.sequential:SASRec",
    "gru4rec": "twotower.towers.sequence.gru4rec:GRU4Rec",
    "lrurec": "twotower.towers.sequence.lrurec:LRURec",
    "hstu": "twotower.towers.sequence.hstu:HSTU",
    "ligr": "twotower.towers.sequence.ligr:LiGR",
    "caser": "twotower.towers.sequence.caser:Caser",
    "mamba4rec": "twotower.towers.sequence.mamba4rec:Mamba4Rec",
    "bert4rec": "twotower.towers.sequence.bert4rec:BERT4Rec",
    "stosa": "twotower.towers.sequence.stosa:STOSA",
    "diffurec": "twotower.towers.sequence.diffurec:DiffuRec",
    "contrast_vae": "twotower.towers.sequence.contrast_vae:ContrastVAE",
    "dat_plus": "twotower.models.dat_plus:DATPlus",
    "sparcode": "twotower.models.sparcode:SparCode",
    "sparcode_twin": "twotower.models.sparcode_twin:SparCodeTwin",
    "dropoutnet": "twotower.models.cold.dropoutnet:DropoutNet",
    "deezernet": "twotower.models.cold.deezernet:DeezerNet",
    "melu": "twotower.models.cold.melu:MeLU",
    "t2diff": "twotower.models.t2diff:T2Diff",
    "tdm": "twotower.models.tdm:TDM",
    "all_to_all": "twotower.models.all_to_all:AllToAll",
    "popularity": "twotower.models.baselines.popularity:Popularity",
    "cluster_popularity": "twotower.models.baselines.cluster_popularity:ClusterPopularity",
    "random": "twotower.models.baselines.random:Random",
    "item_cosine": "twotower.models.baselines.item_cosine:ItemCosine",
    "item_lists": "twotower.models.baselines.item_lists:ItemLists",
    "ease": "twotower.models.baselines.ease:EASE",
    "sparse_ease": "twotower.models.baselines.sparse_ease:SparseEASE",
    "mixture": "twotower.models.mixed:Mixture",
    "dat": "twotower.models.prerank.dat:DAT",
    "cold": "twotower.models.prerank.cold:COLD",
    "int_tower": "twotower.models.prerank.int_tower:IntTower",
    "rank_tower": "twotower.models.prerank.rank_tower:RankTower",
    "fit": "twotower.models.fit.model:FIT",
    "semantic": "twotower.models.semantic:Semantic",
}
"""One line a model, "module:class"; a sequence encoder's line makes it a model."""
