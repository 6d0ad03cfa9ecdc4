"""A plugin for nbval: each notebook must stay within its budget; the run ends with a table.

    python -m pytest --nbval-lax -p tests.nbval_budget notebooks

No lesson writes into the reader's ledger: kernels inherit the name of another.
"""

import os
import tempfile
from unittest.mock import patch

import psutil
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile


def pytest_sessionstart(session):
    """Make room for the ledger."""
    session.ledger = tempfile.TemporaryDirectory(prefix="tqlearn-ledger-")
    session.config.add_cleanup(session.ledger.cleanup)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Before a notebook's first cell: its kernel starts."""
    if not isinstance(item, IPyNbCell):
        return (yield)
    file = os.path.join(item.session.ledger.name, "ledger.json")
    with patch.dict(os.environ, TQLEARN_LEDGER=file):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """After a notebook's last cell, before its kernel goes: read what the kernel has used."""
    from tqlearn.lab.usage import speed  # not before tests/conftest.py looks at tqlearn's imports

    page, usage = item.parent, None
    if isinstance(page, IPyNbFile) and (nextitem is None or nextitem.parent is not page):
        if page.kernel is not None and page.kernel.is_alive():
            usage = _usage(page.kernel)
            scaled = f"{usage.scaled(speed()):.1f} scaled (this machine: {speed():.2f})"
            item.user_properties.append(("usage", f"{item.path.name:40} {usage}, {scaled}"))
    result = yield  # nbval shuts the kernel down here
    if usage is not None and (complaint := usage.complaint(speed())):
        pytest.fail(f"{item.path.name} used {complaint}", pytrace=False)
    return result


def _usage(kernel):
    """What a kernel has used. A fork (tests/warm.py) is charged with its server's imports, too."""
    from tqlearn.lab.usage import Usage, process_usage

    asked = kernel.kc.execute(
        "", silent=True, user_expressions={"pid": "__import__('os').getpid()"}
    )
    while (reply := kernel.kc.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != asked:
        pass
    pid = int(reply["content"]["user_expressions"]["pid"]["data"]["text/plain"])
    usage = process_usage(pid)
    if pid == kernel.km.provisioner.pid:
        return usage
    imports = psutil.Process(pid).parent().cpu_times()
    return Usage(usage.cpu_seconds + imports.user + imports.system, usage.peak_bytes)


def pytest_terminal_summary(terminalreporter):
    """Print CPU-seconds, raw and scaled, and peak memory of every notebook that was run."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    lines = [v for r in reports for k, v in getattr(r, "user_properties", []) if k == "usage"]
    if lines:
        terminalreporter.section("what the notebooks used")
        terminalreporter.write_line("\n".join(sorted(lines)))
