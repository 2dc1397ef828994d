"""Tables of the papers, run again: variants × seeds on real data, with intervals and paired tests.

In the tables: AUC within users is GAUC (grouped AUC); models are FIT (fully interacted two-tower) and COLD (computing
power cost-aware online and lightweight deep pre-ranking).

Add one: write its file with a `Table`, and list it in `tables.py`.
"""
