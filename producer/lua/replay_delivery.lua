-- Lets a job's webhook be sent anew and at once, whatever became of it. ARGV: job id. Returns 'gone' or 'replayed'.
local id = ARGV[1]
local url = redis.call('HGET', delivery_key(id), 'url')
if not url then return 'gone' end
redis.call('HSET', delivery_key(id), 'state', 'pending', 'attempts', 0)
redis.call('HINCRBY', delivery_key(id), 'fence', 1)
redis.call('EXPIRE', delivery_key(id), DELIVERY_TTL_S)
redis.call('DEL', slow_key(origin_of(url)), disabled_key(url))
post(id, url, now_ms())
return 'replayed'
