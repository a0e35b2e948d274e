#!lua flags=allow-oom
-- Says that a page's outcome is about to be stored as a blob. It is garbage in a while, unless the page is finished with it.
-- ARGV: id, unit, fence, page, blob, how long it may lie there without its page (ms)
-- Returns 'final', 'fenced', 'duplicate' or 'expected'.
local id, page = ARGV[1], whole(4, 1)
check_blob(ARGV[5])
whole(6, 1)
local state = redis.call('HGET', job_key(id), 'state')
if not state or FINAL[state] then return 'final' end
if not holds(id, ARGV[2], ARGV[3]) then return 'fenced' end
if redis.call('HEXISTS', pages_key(id), page) == 1 then return 'duplicate' end
redis.call('ZADD', GARBAGE, now_ms() + ARGV[6], ARGV[5])
return 'expected'
