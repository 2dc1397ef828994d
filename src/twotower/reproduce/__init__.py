"""Tables of the papers, run again: variants × seeds on real data, with intervals and paired tests.

Add one: write its file with a `Table`, and list it in `tables.py`.
"""
