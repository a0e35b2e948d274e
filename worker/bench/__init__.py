"""`ocrpool bench`: the pool, what it is built of, and its peers, measured side by side in one run.

__main__                                                  options, the sections in order, what is printed and written
  ablation comparison latency recording null_engine       one or two sections each
    rates -> load, search                                 closed and open loops, on a clock that is a parameter
    pool, services -> child                               readers in processes of their own, asked by JSON lines:
      baseline ceiling peers naive client                   the rungs, the recorder, the peers, a user of the pool
    meter                                                 what they keep busy, and the memory that they take
  document -> goals, tables, plots                        the figures, and how they are shown
"""
