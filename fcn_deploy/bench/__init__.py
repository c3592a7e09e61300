"""The speed of artefacts, measured so that the figures can be compared.

:func:`fcn_deploy.benchmark` measures, :class:`fcn_deploy.bench.results.BenchmarkResult` is what it returns,
and :func:`fcn_deploy.bench.report.write_html` writes the page.
"""
