"""The tour and its lessons, installed as `multipole_lab.notebooks`; `multipole-lab lab` copies them to a reader."""
