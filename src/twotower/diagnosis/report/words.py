"""Names and meanings of the figures, one line each."""

from __future__ import annotations

FIGURES: dict[str, dict[str, tuple[str, str]]] = {
    "How alike the vectors are": {
        "mean_cosine": ("Mean cosine", "Of all pairs. Near 0: they point everywhere; near 1: they all point one way."),
        "median_cosine": ("Median cosine", "Half of the pairs are more alike than this."),
        "std_cosine": ("Standard deviation", "How much pairs differ in likeness. Near 0: nothing tells them apart."),
        "min_cosine": ("Least cosine", "The two vectors that are least alike."),
        "p10_cosine": ("10th percentile", "One pair in ten is less alike than this."),
        "p25_cosine": ("25th percentile", "One pair in four is less alike than this."),
        "p75_cosine": ("75th percentile", "One pair in four is more alike than this."),
        "p90_cosine": ("90th percentile", "One pair in ten is more alike than this."),
        "max_cosine": ("Greatest cosine", "The two vectors that are most alike; 1 means that they point the same way."),
        "entropy": (
            "Entropy of the cosines",
            "In bits, over 1,000 bins from -1 to 1. Low: all pairs look alike.",
        ),
        "uniformity": ("Uniformity", "Log of the mean Gaussian likeness of pairs. Lower is more even."),
        "isotropy": ("Isotropy", "1 when every direction is used equally, near 0 when one is preferred."),
        "pairs": ("Pairs", "Compared for the percentiles and the entropy."),
        "alignment": ("Alignment", "Mean squared distance of the pairs that belong together. Lower is better."),
    },
    "How many directions they fill": {
        "rankme": ("RankMe", "Effective number of directions, from the entropy of the singular values."),
        "participation_ratio": ("Participation ratio", "Effective number of directions, by squared variances."),
        "stable_rank": ("Stable rank", "All variance in units of the largest axis."),
        "direction_rank": ("RankMe of directions", "The same for unit vectors, so that lengths do not count."),
        "direction_participation": ("Participation of directions", "Participation ratio of the unit vectors."),
        "direction_top_share": ("Share of the first axis", "Of what differs between directions."),
        "intrinsic_dimension": ("Intrinsic dimension", "Of the surface the vectors lie on, by two nearest neighbours."),
        "effective_dimensions": ("Dimensions in use", "With a variance above 1 % of the largest."),
        "dimensions_for_90_percent": ("Dimensions for 90 %", "Of the variance, counting given dimensions."),
        "principal_effective_dimensions": ("Principal axes in use", "With a variance above 1 % of the largest."),
        "principal_dimensions_for_90_percent": ("Principal axes for 90 %", "Of the variance, counting best axes."),
        "top_component_share": ("Share of the first component", "Of the variance about the mean."),
        "dead_dimensions": ("Dead dimensions", "Dimensions that never change."),
        "largest_dimension": ("Largest dimension", "The one that holds most of the unit vectors, counted from 0."),
        "largest_dimension_name": ("Its name", "Of the column that it was read from."),
        "largest_dimension_share": ("Its share", "Of the squared length; centred: of what differs."),
    },
    "What neighbours are like": {
        "top20_max": ("Nearest neighbour", "Mean cosine with the first neighbour."),
        "top3_mean": ("Three nearest", "Mean cosine with the first three neighbours."),
        "top20_min": ("20th neighbour", "Mean cosine with it; close to the first means that ranks say little."),
        "improvement_over_random": ("Improvement over random", "Legacy figure: top three over the mean, less 1."),
        "decay_shape": ("Decay over the top 20", "Elbowed: a few neighbours stand out. Linear: none does."),
        "decay_elbowed_share": ("Elbowed share", "Of the vectors whose decay is not a straight line."),
        "decay_elbow_rank": ("Rank of the elbow", "Where the decay flattens, for the median vector that has one."),
        "neighbour_stability": ("Neighbours kept under noise", "Share of the ten nearest that 5 % of noise leaves."),
        "hubness": ("Hubness", "Skewness of how often each vector is a neighbour. High: a few win everything."),
        "anti_hubs": ("Anti-hubs", "Share of vectors that are nobody's neighbour."),
        "near_duplicates": ("Near duplicates", "Share of vectors with another as good as equal beside them."),
        "duplicates": ("Duplicates", "Vectors that repeat an earlier one exactly."),
    },
    "Groups, lengths and popularity": {
        "davies_bouldin": ("Davies-Bouldin", "Of five k-means clusters. Lower: clearer groups."),
        "silhouette": ("Silhouette", "Of five k-means clusters, from -1 to 1. Higher: clearer groups."),
        "norm_mean": ("Mean length", "Of the vectors."),
        "norm_std": ("Deviation of lengths", "Standard deviation."),
        "norm_top_share": (
            "Share of the longest",
            "The longest 1 % hold this share of all squared length.",
        ),
        "norm_cv": ("Spread of lengths", "Standard deviation over mean."),
        "norm_max_over_median": ("Longest over median", "Far above 1: a few vectors win every inner product."),
        "norm_popularity_correlation": ("Length and popularity", "Rank correlation."),
        "popularity_variance_share": ("Variance by popularity", "Share of variance that popularity explains."),
        "zero_vectors": ("Zero vectors", "Rows without a direction."),
    },
}
"""Group -> name in the JSON -> what people call it, and what it tells."""

ADVICE = {
    "shared_direction": "Look for features that are empty or constant at serving, or a bias that grew.",
    "identical": "Look at the input first: every vector is the same.",
    "cone": "Subtract the mean before the index; look for constant features.",
    "rank": "Look for lost features, regularisation that is too strong, or too few negatives.",
    "dominant_direction": "Look for popularity, the length of a text, or a numeric feature without scaling.",
    "duplicates": "Look for items that share all their features.",
    "dead_dimensions": "Look for a ReLU at the output, or width that is not needed.",
    "norms": "With inner products the longest win every search: normalise, or find why they grew.",
    "popularity": "Correct for popularity in sampling and in the loss.",
    "zero_vectors": "Look for items that the encoder did not know.",
    "at_chance": "The words are not those of training: map them, or train on texts like these.",
    "hubs": "Normalise the vectors, or correct for hubs.",
}
"""Name of a reason -> where to look first."""

BASELINES = {
    "sample": "these vectors",
    "permuted": "each dimension shuffled",
    "random": "random vectors",
}
BASELINE_FIGURES = {
    "mean_cosine": "mean cosine",
    "direction_participation": "directions filled",
    "neighbour_gain": "gain of neighbours",
}
VERDICTS = {
    "healthy": "Nothing in the geometry speaks against these vectors.",
    "suspect": "Usable, perhaps: read the reasons before you launch.",
    "collapsed": "Neighbours in this space mean little: do not launch on it.",
}
