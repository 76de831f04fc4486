"""How the queries and keys of one call fall into clusters, and where each member lies."""
