-- Reads a job without its pages. ARGV: id. Returns its fields and values, none if there is no such job. Of a queued job
-- also `position`, the units before it in its lane, and `wait_ms`, about how long they take, if that is known.
local found = redis.call('HGETALL', job_key(ARGV[1]))
local v = redis.call('HMGET', job_key(ARGV[1]), 'state', 'lane', 'first', 'tenant')
if v[1] ~= 'queued' then return found end
local own = redis.call('ZRANK', waiting_key(v[2], v[4]), ARGV[1] .. ' ' .. v[3])
if not own then return found end
-- Tenants take turns: as many of each other's come before it as of its own, and one more.
local position = own
for _, tenant in ipairs(tenants_in(v[2])) do
  if tenant ~= v[4] then position = position + math.min(own + 1, redis.call('ZCARD', waiting_key(v[2], tenant))) end
end
found[#found + 1], found[#found + 2] = 'position', string.format('%d', position)
local flow = redis.call('HMGET', FLOW, v[2] .. ':mean', v[2] .. ':last', v[2] .. ':crowded')
if not flow[1] then return found end
-- The queue may have become slower since the last claim, or stand still.
local gap = math.max(tonumber(flow[1]), flow[3] == '1' and math.min(now_ms() - flow[2], 60000) or 0)
found[#found + 1], found[#found + 2] = 'wait_ms', string.format('%d', (position + 1) * gap)
return found
