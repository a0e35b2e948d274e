-- Replaces a job's "prepare" unit by the spans of its counted pages.
-- ARGV: id, fence, pages total, lane, span...
-- Returns 'planned', 'fenced' or 'final'.
local id, now = ARGV[1], now_ms()
local state = redis.call('HGET', job_key(id), 'state')
if not state or FINAL[state] then return 'final' end
if redis.call('HGET', spans_key(id), 'prepare:fence') ~= ARGV[2] then return 'fenced' end
remove_unit(id, 'prepare')
redis.call('HSET', job_key(id), 'pages_total', ARGV[3])
for i = 5, #ARGV do add_unit(id, ARGV[i], ARGV[4], 0, now) end
redis.call('EXPIRE', spans_key(id), math.max(1, redis.call('TTL', job_key(id))))
publish_event(id)
return 'planned'
