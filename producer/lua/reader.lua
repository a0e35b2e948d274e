#!lua flags=allow-oom
-- Says how a ready worker reads, or that it leaves. ARGV: worker, manner (hexadecimal; '' if it leaves), for how long (ms)
local worker, reader, now = ARGV[1], ARGV[2], now_ms()
if not string.find(reader, '^%x*$') then error('a manner of reading is a digest') end
local ttl = whole(3, 1, 1e12)
local found = redis.call('HGETALL', READERS)
for i = 1, #found, 2 do
  if not reader_at(found[i + 1], now) then redis.call('HDEL', READERS, found[i]) end
end
if reader == '' then return redis.call('HDEL', READERS, worker) end
redis.call('HSET', READERS, worker, string.format('%d %d %s', now + ttl, ttl, reader))
-- Each entry says when it ends; the whole goes a while after its last.
redis.call('PEXPIRE', READERS, ttl + 60000)
