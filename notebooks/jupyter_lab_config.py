"""What `make lab` starts: JupyterLab for this computer only, which asks nobody outside it for anything."""

import os
import sys

c = get_config()  # traitlets puts this function here

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


def without_announcements(handler, page_config):
    """Disable the plugin in what JupyterLab's page is told."""
    page_config["disabledExtensions"] = [
        *page_config.get("disabledExtensions", []),
        "@jupyterlab/apputils-extension:announcements",
    ]
    return page_config


c.ServerApp.tornado_settings = {"page_config_hook": without_announcements}
