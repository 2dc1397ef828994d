"""Item states -> search. An `Index` knows no model, a `ModelIndex` is made with one; both have ``is_exact``."""
