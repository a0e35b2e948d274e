#!lua flags=allow-oom
-- Writes a key that goes by itself. ARGV: its name, value, time to live (ms), '1' if only where it is not there yet.
-- Returns 1 if it was written.
whole(3, 1)
local kind = string.match(ARGV[1], '^(%l+):.') or ARGV[1]
if kind ~= 'sweeping' and kind ~= 'worker' and kind ~= 'busy' then error('there is no such note') end
local key, ttl = ns .. ':' .. ARGV[1], tonumber(ARGV[3])
-- One that has longer to live than it is ever given was written before the server's clock stepped back.
local left = redis.call('PTTL', key)
if ARGV[4] == '1' and left >= 0 and left <= ttl then return 0 end
redis.call('SET', key, ARGV[2], 'PX', ARGV[3])
return 1
