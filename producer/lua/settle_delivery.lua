#!lua flags=allow-oom
-- Writes how a webhook's try went. A late word of success counts, too: it was delivered.
-- ARGV: job id, fence, verdict ('delivered', 'again' or 'dead'), delay of the next try (ms), outcome in a sentence,
--       whether the endpoint took long ('1' or '0'), whether it wants no more ('1' or '0')
-- Returns 'gone', 'final' (it is settled), 'fenced' or 'settled'.
local id, verdict, now = ARGV[1], ARGV[3], now_ms()
if verdict ~= 'delivered' and verdict ~= 'again' and verdict ~= 'dead' then error('a try does not end so') end
local delay = whole(4, 0, 10 * 86400000)
local v = redis.call('HMGET', delivery_key(id), 'url', 'state', 'fence', 'tenant')
local url, tenant = v[1], v[4]
if not url then return 'gone' end
if v[2] ~= 'pending' then return 'final' end
if verdict ~= 'delivered' and v[3] ~= ARGV[2] then return 'fenced' end
redis.call('HINCRBY', delivery_key(id), 'attempts', 1)

-- A standing outlives the longest pause between two tries. What fails at once keeps nobody waiting, and costs none.
local standing, standing_ttl_s = standing_key(origin_of(tenant, url)), 2 * 86400
if ARGV[6] == '1' then
  redis.call('HSET', standing, 'is', 'slow')
  -- Each time in a row, the rest of an origin that takes long is twice as long: 5 s to 5 min.
  if (tonumber(redis.call('HGET', standing, 'until')) or 0) <= now then
    local times = redis.call('HINCRBY', standing, 'times', 1)
    redis.call('HSET', standing, 'until', now + math.min(300000, 5000 * 2 ^ math.min(times - 1, 10)))
  end
  redis.call('EXPIRE', standing, standing_ttl_s)
elseif verdict == 'delivered' then
  redis.call('DEL', standing)
  redis.call('HSET', standing, 'is', 'good')
  redis.call('EXPIRE', standing, standing_ttl_s)
elseif redis.call('HGET', standing, 'is') == 'slow' then
  redis.call('DEL', standing)
end
if ARGV[7] == '1' then redis.call('SET', disabled_key(tenant, url), '1', 'EX', 86400) end

if verdict ~= 'again' then
  end_delivery(id, tenant, url, verdict, ARGV[5], now)
else
  redis.call('HSET', delivery_key(id), 'outcome', ARGV[5])
  redis.call('EXPIRE', delivery_key(id), math.ceil(delay / 1000) + DELIVERY_TTL_S)
  post(id, tenant, url, now + delay)
end
return 'settled'
