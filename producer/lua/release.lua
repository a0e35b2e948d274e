-- Gives a unit back. ARGV: id, unit, fence, '1' if it shall be done again by another worker.
-- Returns the lane to publish it in, or '' when nothing is owed.
local id, unit = ARGV[1], ARGV[2]
local member = id .. ' ' .. unit
if redis.call('HGET', spans_key(id), unit .. ':fence') ~= ARGV[3] then return '' end
redis.call('ZREM', LEASES, member)
if ARGV[4] ~= '1' then return '' end
redis.call('HSET', spans_key(id), unit .. ':fence', next_fence(id))
redis.call('ZADD', WAITING, now_ms(), member)
return redis.call('HGET', spans_key(id), unit .. ':lane')
