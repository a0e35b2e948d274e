-- Finds the final job whose pages a document would be given; otherwise it is to be stored, as `expect_blob` says.
-- ARGV: the document's digest, or '' of one that is not looked up, blob, how long it may lie there without a job (ms)
-- Returns {id, blob of the final job}, or {}.
check_blob(ARGV[2])
whole(3, 1)
local now = now_ms()
local reader = ARGV[1] ~= '' and sole_reader(now)
local id = reader and redis.call('GET', known_key(ARGV[1], reader))
if id and is_known(id, ARGV[1]) then return { id, redis.call('HGET', job_key(id), 'blob') } end
redis.call('ZADD', GARBAGE, now + ARGV[3], ARGV[2])
return {}
