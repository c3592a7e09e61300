"""How fast an artefact is, measured so that the figures can be compared and believed.

:func:`fcn_deploy.bench.method.benchmark` measures; :mod:`fcn_deploy.bench.report` shows.
"""
