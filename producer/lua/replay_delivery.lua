-- Lets a job's webhook be sent anew and at once, whatever became of it. ARGV: job id. Returns 'gone' or 'replayed'.
local id = ARGV[1]
local v = redis.call('HMGET', delivery_key(id), 'url', 'tenant')
local url, tenant = v[1], v[2]
if not url then return 'gone' end
redis.call('HSET', delivery_key(id), 'state', 'pending', 'attempts', 0)
redis.call('HINCRBY', delivery_key(id), 'fence', 1)
redis.call('EXPIRE', delivery_key(id), DELIVERY_TTL_S)
redis.call('DEL', standing_key(origin_of(tenant, url)), disabled_key(tenant, url))
post(id, tenant, url, now_ms())
return 'replayed'
