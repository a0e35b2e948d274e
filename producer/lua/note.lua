#!lua flags=allow-oom
-- Writes a key that goes by itself. ARGV: its name, value, time to live (ms), '1' if only where it is not there yet.
-- Returns 1 if it was written.
whole(3, 1)
local kind = string.match(ARGV[1], '^(%l+):.') or ARGV[1]
if kind ~= 'sweeping' and kind ~= 'worker' and kind ~= 'busy' then error('there is no such note') end
local key = ns .. ':' .. ARGV[1]
if ARGV[4] == '1' and redis.call('EXISTS', key) == 1 then return 0 end
redis.call('SET', key, ARGV[2], 'PX', ARGV[3])
return 1
