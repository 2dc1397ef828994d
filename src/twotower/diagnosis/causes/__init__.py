"""Which features cause what a diagnosis found."""
