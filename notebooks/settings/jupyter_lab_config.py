"""What `make lab` starts: JupyterLab for this computer only, which asks nobody outside it for anything."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from jupyter_core.paths import jupyter_config_dir, jupyter_data_dir, jupyter_runtime_dir

c = get_config()  # traitlets puts this function here

try:
    for folder in (jupyter_config_dir(), jupyter_data_dir(), jupyter_runtime_dir()):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
except OSError as error:
    # No home, or one that cannot be written: what JupyterLab and its kernels keep there lasts until they end.
    home = tempfile.mkdtemp(prefix="multipole-lab-jupyter-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    print(
        f"{error}: JupyterLab's settings are kept for this run only; to keep them: export HOME=/path",
        file=sys.stderr,
    )
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        os.environ[name] = os.path.join(home, name.lower())
    c.LabApp.user_settings_dir = os.path.join(home, "settings")
    c.LabApp.workspaces_dir = os.path.join(home, "workspaces")

c.ServerApp.ip = "127.0.0.1"
c.ServerApp.allow_remote_access = False
c.ServerApp.allow_root = True  # in a container the user often is root, and only 127.0.0.1 is served
c.LabApp.default_url = "/lab/tree/notebooks/00_tour.ipynb"

# A browser needs a display. Without this test a text browser such as w3m would fill the terminal.
c.ServerApp.open_browser = sys.platform == "darwin" or any(
    os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
)

# No news, no search for updates, and no question whether they are wanted (the plugin asks at the start).
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.handlers.announcements.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"  # the default one searches PyPI
# No search for language servers: it asks npm, which without a home folder never answers and outlives the server.
c.LanguageServerManager.autodetect = False


def without_announcements(handler, page_config):
    """Disable the plugin in what JupyterLab's page is told."""
    page_config["disabledExtensions"] = [
        *page_config.get("disabledExtensions", []),
        "@jupyterlab/apputils-extension:announcements",
    ]
    return page_config


c.ServerApp.tornado_settings = {"page_config_hook": without_announcements}
