"""MuSe whose keys are summarised around points that the queries do not make: another block's, or another device's."""
