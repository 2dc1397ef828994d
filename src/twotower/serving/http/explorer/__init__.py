"""Explorer of a served bundle: a page of the service's own process, and the routes that it asks."""
