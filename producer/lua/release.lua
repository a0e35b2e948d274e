#!lua flags=allow-oom
-- Gives a unit back. ARGV: id, unit, fence, '1' if it shall be done again by another worker; and where it failed in a way
--       that nobody foresaw: the error (JSON), TTL of a final job (s)
-- Returns {{id, unit, lane}...} to publish.
local id, unit, now = ARGV[1], ARGV[2], now_ms()
local error_json = ARGV[5] or ''
local unforeseen = error_json ~= '' and cjson.decode(error_json)
if unforeseen then
  if type(unforeseen) ~= 'table' then error('the error of a unit must be an object') end
  whole(6, 0)
end
-- As many as there are deaths until a page is poison.
local MOST_FAILURES = 3
if not holds(id, unit, ARGV[3]) then return next_quarantined(now) end
-- A server that came back, or took over, may have lost outcomes whose writes were answered.
local again = ARGV[4] == '1' or #pages_left(id, unit) > 0
forget(id, unit)
note(id, { what = again and 'given_back' or 'done', unit = unit }, now)
-- A renewal that comes after this must not bring the lease back.
redis.call('HSET', spans_key(id), unit .. ':fence', next_fence(id, now))
if not again then return next_quarantined(now) end
if unforeseen and redis.call('HINCRBY', spans_key(id), unit .. ':failures', 1) >= MOST_FAILURES then
  bury_unit(id, unit, unforeseen, now)
  local left, ttl = pages_left(id, unit), tonumber(ARGV[6])
  remove_unit(id, unit)
  if unit == 'prepare' then finalise(id, 'failed', error_json, ttl, now) end
  for _, page in ipairs(left) do
    local outcome = cjson.encode({ kind = 'failure', page = tonumber(page), error = unforeseen })
    record_page(id, unit, tonumber(page), outcome, error_json, nil, ttl, now)
  end
  return next_quarantined(now)
end
local lane = redis.call('HGET', spans_key(id), unit .. ':lane')
put_waiting(id, unit, lane, now)
if lane == 'quarantine' then return next_quarantined(now) end
return { { id, unit, lane } }
