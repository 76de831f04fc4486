"""The notebooks on a reader's own disk, and JupyterLab opened on them: `multipole-lab lab`."""
