-- Says that a blob is about to be stored. It is garbage in a while, unless a job is accepted that owns it.
-- ARGV: blob, how long it may lie there without a job (ms)
whole(2, 0)
if not string.match(ARGV[1], '^[%w_]+$') then error('a blob has the name of one') end
redis.call('ZADD', GARBAGE, now_ms() + ARGV[2], ARGV[1])
