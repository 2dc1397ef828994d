"""Item states -> search. An index knows no model, and says whether it is exact."""
