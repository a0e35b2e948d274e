-- Says that a blob is about to be stored. It is garbage in a while, unless a job is accepted that owns it.
-- ARGV: blob, how long it may lie there without a job (ms)
check_blob(ARGV[1])
whole(2, 1)
redis.call('ZADD', GARBAGE, now_ms() + ARGV[2], ARGV[1])
