"""`ocrpool bench`: the pool, what it is built of, and its peers, measured side by side in one run.

__main__      options, sections in order, and what is printed
  ablation comparison latency ceiling null_engine        one section each
    load, search                                         closed and open loops, on a clock that is a parameter
      services    a reader in a process of its own       -> child -> readers: baseline, engine, peers, client
      meter       what it keeps busy, and the memory it takes
  document -> goals, tables, plots                       the figures, and how they are shown
"""
