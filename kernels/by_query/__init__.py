"""MuSe whose queries choose their near clusters one by one, without a derivative."""
