-- Reads a job without its pages. ARGV: id. Returns its fields and values, none if there is no such job. Of a queued job
-- also `position`, the units before it in its lane, and `wait_ms`, about how long they take, if that is known.
local found = redis.call('HGETALL', job_key(ARGV[1]))
local v = redis.call('HMGET', job_key(ARGV[1]), 'state', 'lane', 'first')
if v[1] ~= 'queued' then return found end
local position = redis.call('ZRANK', waiting_key(v[2]), ARGV[1] .. ' ' .. v[3])
if not position then return found end
found[#found + 1], found[#found + 2] = 'position', string.format('%d', position)
local pace = redis.call('HMGET', PACE, v[2] .. ':mean', v[2] .. ':last', v[2] .. ':crowded')
if not pace[1] then return found end
-- The queue may have become slower since the last claim, or stand still.
local gap = math.max(tonumber(pace[1]), pace[3] == '1' and math.min(now_ms() - pace[2], 60000) or 0)
found[#found + 1], found[#found + 2] = 'wait_ms', string.format('%d', (position + 1) * gap)
return found
