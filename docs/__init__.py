"""The pages for readers, installed as `multipole_lab.docs`; `multipole-lab lab` copies them beside the notebooks."""
