"""The board: our best sequential recipe beside plain SASRec and counted rows, on forms of data that others report."""
