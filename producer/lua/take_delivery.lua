#!lua flags=allow-oom
-- Takes a webhook that is due. It is due again when the lease is over, unless it was settled.
-- ARGV: lease (ms), most that are looked at, busy origins (JSON list)
-- Returns {job id, fence, field, value...}, or false where nothing may be sent now.
whole(1, 1); whole(2, 1)
local busy, now = {}, now_ms()
local origins = cjson.decode(ARGV[3])
if type(origins) ~= 'table' then error('busy origins must be a list') end
for _, origin in ipairs(origins) do busy[tostring(origin)] = true end

for _, id in ipairs(redis.call('ZRANGE', OUTBOX, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
  local v = redis.call('HMGET', delivery_key(id), 'url', 'state')
  local url = v[1]
  if not url or v[2] ~= 'pending' then
    redis.call('ZREM', OUTBOX, id)
  elseif redis.call('EXISTS', disabled_key(url)) == 1 then
    end_delivery(id, url, 'The endpoint has lately answered 410 Gone.', now)
  else
    local rest = tonumber(redis.call('HGET', slow_key(url), 'until')) or 0
    if busy[string.match(url, '^%a+://[^/?#]+')] then rest = math.max(rest, now + 1000) end
    if rest > now then
      redis.call('ZADD', OUTBOX, rest, id)
    else
      local reply = { id, redis.call('HINCRBY', delivery_key(id), 'fence', 1) }
      for _, field in ipairs(redis.call('HGETALL', delivery_key(id))) do reply[#reply + 1] = field end
      redis.call('ZADD', OUTBOX, now + ARGV[1], id)
      return reply
    end
  end
end
return false
