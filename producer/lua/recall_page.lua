-- Finds the outcome of a page with the same pixels. ARGV: their digest. Returns the outcome (JSON), or nothing.
local id, page = string.match(redis.call('GET', pixels_key(ARGV[1])) or '', '^(%S+) (%d+)$')
return id and redis.call('HGET', pages_key(id), page)
