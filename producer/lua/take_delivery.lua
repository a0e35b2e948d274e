#!lua flags=allow-oom
-- Takes a webhook that is due. It is due again when the lease is over, unless it was settled.
-- ARGV: lease (ms), most that are looked at, busy origins (JSON list), to which nothing is sent now
-- Returns {job id, origin, fence, field, value...}, or false where nothing may be sent now.
local lease, looks = whole(1, 1), whole(2, 1)
local busy, now = {}, now_ms()
local origins = cjson.decode(ARGV[3])
if type(origins) ~= 'table' then error('busy origins must be a list') end
for _, origin in ipairs(origins) do busy[tostring(origin)] = true end

-- The origin's first webhook that is due and still to be sent; what is not is taken out.
local function first_of(origin)
  while looks > 0 do
    looks = looks - 1
    local id = redis.call('ZRANGE', outbox_key(origin), '-inf', now, 'BYSCORE', 'LIMIT', 0, 1)[1]
    if not id then
      set_due(origin)
      return nil
    end
    local v = redis.call('HMGET', delivery_key(id), 'url', 'state', 'tenant')
    if not v[1] or v[2] ~= 'pending' then
      redis.call('ZREM', outbox_key(origin), id)
    elseif redis.call('EXISTS', disabled_key(v[3], v[1])) == 1 then
      end_delivery(id, v[3], v[1], 'dead', 'The endpoint has lately answered 410 Gone.', now)
    else
      return id
    end
  end
  return nil
end

for _, origin in ipairs(redis.call('ZRANGE', OUTBOX, '-inf', now, 'BYSCORE', 'LIMIT', 0, looks + #origins)) do
  local id = not busy[origin] and first_of(origin)
  if id then
    redis.call('ZADD', outbox_key(origin), now + lease, id)
    set_due(origin)
    local reply = { id, origin, redis.call('HINCRBY', delivery_key(id), 'fence', 1) }
    for _, field in ipairs(redis.call('HGETALL', delivery_key(id))) do reply[#reply + 1] = field end
    return reply
  end
end
return false
