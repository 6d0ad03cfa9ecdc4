"""One JupyterLab and one Chromium for all files here; they end with the last of these tests."""

from jupyter_page import browser as browser
from jupyter_page import lab as lab
from jupyter_page import new_page as new_page
from jupyter_page import page as page
from jupyter_page import tab as tab
