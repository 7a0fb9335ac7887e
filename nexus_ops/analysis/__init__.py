"""Is the candidate worse than the stable colour? A pure answer, over samples that somebody else has fetched.

`metrics` reads what is measured, `answers` turns Prometheus' answers into `samples`, `counters` turns cumulative
readings into comparable intervals, `evidence` and `dispersion` hold the sequential test, `assurance` what a pass needs,
`guardrails` the plain limits, `judge` the verdict, `replay` the stored evidence, `power` what can be seen in time.
Nothing here reads a clock, a file other than the declarations, or the network.
"""
