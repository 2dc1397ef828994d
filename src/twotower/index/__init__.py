"""Indexes: item states -> search. An `Index` knows no model, a `ModelIndex` is made with one; both say if exact."""
