-- Replaces a job's "prepare" unit by the spans of its counted pages.
-- ARGV: id, fence, pages total, lane, span...
-- Returns 'planned', 'fenced' or 'final'.
local id, now = ARGV[1], now_ms()
whole(3, 1)
check_lane(ARGV[4])
check_units(ARGV, 5)
local state = redis.call('HGET', job_key(id), 'state')
if not state or FINAL[state] then return 'final' end
if not holds(id, 'prepare', ARGV[2]) then return 'fenced' end
note(id, { what = 'done', unit = 'prepare' }, now)
remove_unit(id, 'prepare')
redis.call('HSET', job_key(id), 'pages_total', ARGV[3])
weigh_again(id, ARGV[3] - 1)
for i = 5, #ARGV do add_unit(id, ARGV[i], ARGV[4], 0, now) end
redis.call('EXPIRE', spans_key(id), math.max(1, redis.call('TTL', job_key(id))))
publish_event(id)
return 'planned'
