#!lua flags=allow-oom
-- Gives a unit back. ARGV: id, unit, fence, '1' if it shall be done again by another worker.
-- Returns {{id, unit, lane}...} to publish.
local id, unit, now = ARGV[1], ARGV[2], now_ms()
if not holds(id, unit, ARGV[3]) then return next_quarantined(now) end
-- A server that came back, or took over, may have lost outcomes whose writes were answered.
local again = ARGV[4] == '1' or #pages_left(id, unit) > 0
forget(id, unit)
note(id, { what = again and 'given_back' or 'done', unit = unit }, now)
-- A renewal that comes after this must not bring the lease back.
redis.call('HSET', spans_key(id), unit .. ':fence', next_fence(id, now))
if not again then return next_quarantined(now) end
local lane = redis.call('HGET', spans_key(id), unit .. ':lane')
put_waiting(id, unit, lane, now)
if lane == 'quarantine' then return next_quarantined(now) end
return { { id, unit, lane } }
