"""The command line: each command a thin layer over the API."""

from __future__ import annotations


def main() -> None:
    """Run ``fcn-deploy``; leaves through SystemExit with 0, 1 (failed) or 2 (wrong use)."""
    from fcn_deploy.cli.console import prepare_process
    from fcn_deploy.cli.main import app

    prepare_process()
    app(prog_name="fcn-deploy")
