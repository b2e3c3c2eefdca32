"""How good an editor is: benchmarks, metrics, reports."""
