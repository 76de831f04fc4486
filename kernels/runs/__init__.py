"""MuSe whose clusters are runs of consecutive positions: nothing is clustered, sorted or gathered."""
